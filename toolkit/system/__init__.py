"""The machine and the process: what is here, what runs out, who else works on the command, and input that is not trusted."""
