"""One command of ``defenses`` each: parse, call, print. Heavy imports wait until a command runs."""
