// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Three processes: the second, once the file `execute` is there, executes this program once more while it has the file open
 * that is the argument, which execve(2) closes; the first is its parent, the third its child.
 */
#include "victim.h"

static void wait_for(const char *name)
{
	char path[PATH_MAX];

	victim_path(path, name);
	while (access(path, F_OK))
		k_sleep_ms(2);
}

static void write_number(const char *name, int number)
{
	char text[32];

	snprintf(text, sizeof(text), "%d", number);
	victim_write_file(name, text);
}

static int second(char **argv)
{
	char *again[] = { argv[0], argv[1], "after", NULL };
	pid_t third = fork();

	if (third < 0)
		victim_die("fork: %m");
	if (!third) {
		wait_for("checked");
		_exit(0);
	}
	if (open(argv[2], O_RDONLY | O_CLOEXEC) < 0)
		victim_die("%s: %m", argv[2]);
	write_number("third", third);
	write_number("second", getpid());
	wait_for("execute");
	execv("/proc/self/exe", again);
	victim_die("execv: %m");
}

int main(int argc, char **argv)
{
	int status = -1;
	pid_t child;

	victim_begin(argc, argv);
	if (!strcmp(victim_arg(), "after")) {
		victim_write_file("executed", "");
		wait_for("checked");
		return wait(&status) > 0 ? status : 1;
	}
	child = fork();
	if (child < 0)
		victim_die("fork: %m");
	if (!child)
		return second(argv);
	wait_for("second");
	victim_checkpoint();
	/* Earlier, the end of the second would be a SIGCHLD in what the first finds. */
	victim_write_file("checked", "");
	if (waitpid(child, &status, 0) != child)
		victim_die("waitpid: %m");
	expect_int(0, status, "the second's exit status");
	return victim_end();
}
