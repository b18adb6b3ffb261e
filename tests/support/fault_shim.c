/* Counts the system calls that change files below a folder; at a chosen one it kills the process, or lets calls fail.
   Loaded with LD_PRELOAD, so that it sees every call of Python, NumPy, PyTorch and safetensors to the C library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* kill: before the call. torn: after half of it, if it is a write. full: from this call on, nothing that needs space
   succeeds. once: this call fails with EIO. broken: from this call on, every call fails with EIO. */
enum { KILL, TORN, FULL, ONCE, BROKEN };

static char root[PATH_MAX];
static long *count, at;
static int kind, armed;

void fault_arm(const char *folder, long call, int what, long *counter) {
	snprintf(root, sizeof root, "%s", folder);
	at = call, kind = what, count = counter, armed = 1;
}

static int below(const char *path) {
	size_t n = strlen(root);
	return strncmp(path, root, n) == 0 && (path[n] == '/' || path[n] == 0);
}

static int descriptor_below(int fd) {
	char link[64], path[PATH_MAX];
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, sizeof path - 1);
	if (n <= 0) return 0;
	path[n] = 0;
	return below(path);
}

static int path_below(int folder, const char *path) {
	char base[PATH_MAX];
	if (path[0] == '/') return below(path);
	if (folder != AT_FDCWD) return descriptor_below(folder);
	return getcwd(base, sizeof base) && below(base);
}

/* Whether the call fails; errno is set. needs_space: it fails on a full disk. */
static int fails(int needs_space) {
	long now = __sync_add_and_fetch(count, 1);
	if (!at || now < at) return 0;
	if (kind == KILL || kind == TORN) {
		if (now == at) kill(getpid(), SIGKILL);
		for (;;) pause();
	}
	if (kind == FULL && !needs_space) return 0;
	if (kind == ONCE && now != at) return 0;
	errno = kind == FULL ? ENOSPC : EIO;
	return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static ssize_t torn(int fd, const void *data, size_t size) {
	if (armed && kind == TORN && *count + 1 == at && size > 1) REAL(write)(fd, data, size / 2);
	return 0;
}

ssize_t write(int fd, const void *data, size_t size) {
	if (armed && descriptor_below(fd) && (torn(fd, data, size), fails(1))) return -1;
	return REAL(write)(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *data, int n) {
	if (armed && descriptor_below(fd) && fails(1)) return -1;
	return REAL(writev)(fd, data, n);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
	if (armed && descriptor_below(fd) && fails(1)) return -1;
	return REAL(pwrite64)(fd, data, size, offset);
}

#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))
#define OPEN(name, parameters, arguments, folder) \
	int name parameters { \
		mode_t mode = 0; \
		if (flags & (O_CREAT | O_TMPFILE)) { \
			va_list rest; \
			va_start(rest, flags); \
			mode = va_arg(rest, mode_t); \
			va_end(rest); \
		} \
		if (armed && WRITES(flags) && path_below(folder, path) && fails((flags & (O_CREAT | O_TMPFILE & ~O_DIRECTORY)) != 0)) \
			return -1; \
		return REAL(name) arguments; \
	}
OPEN(open, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPEN(openat, (int dir, const char *path, int flags, ...), (dir, path, flags, mode), dir)
OPEN(openat64, (int dir, const char *path, int flags, ...), (dir, path, flags, mode), dir)

#define ON_DESCRIPTOR(name, space, parameters, arguments) \
	int name parameters { \
		if (armed && descriptor_below(fd) && fails(space)) return -1; \
		return REAL(name) arguments; \
	}
ON_DESCRIPTOR(fsync, 0, (int fd), (fd))
ON_DESCRIPTOR(fdatasync, 0, (int fd), (fd))
ON_DESCRIPTOR(ftruncate64, 0, (int fd, off64_t size), (fd, size))

int posix_fallocate64(int fd, off64_t offset, off64_t size) {
	if (armed && descriptor_below(fd) && fails(1)) return errno;
	return REAL(posix_fallocate64)(fd, offset, size);
}

#define ON_PATH(name, space, parameters, arguments, folder) \
	int name parameters { \
		if (armed && path_below(folder, path) && fails(space)) return -1; \
		return REAL(name) arguments; \
	}
ON_PATH(rename, 0, (const char *old, const char *path), (old, path), AT_FDCWD)
ON_PATH(renameat, 0, (int from, const char *old, int dir, const char *path), (from, old, dir, path), dir)
ON_PATH(unlink, 0, (const char *path), (path), AT_FDCWD)
ON_PATH(unlinkat, 0, (int dir, const char *path, int flags), (dir, path, flags), dir)
ON_PATH(mkdir, 1, (const char *path, mode_t mode), (path, mode), AT_FDCWD)
ON_PATH(mkdirat, 1, (int dir, const char *path, mode_t mode), (dir, path, mode), dir)
ON_PATH(rmdir, 0, (const char *path), (path), AT_FDCWD)
ON_PATH(symlink, 1, (const char *target, const char *path), (target, path), AT_FDCWD)
ON_PATH(link, 1, (const char *old, const char *path), (old, path), AT_FDCWD)
