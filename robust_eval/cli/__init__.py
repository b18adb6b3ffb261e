"""One command of ``robust-eval`` each: parse, call, print. Heavy imports wait until a command runs."""
