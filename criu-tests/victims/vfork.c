// SPDX-License-Identifier: GPL-2.0-or-later
/* A parent in vfork(2), in uninterruptible sleep until its child ends: which it does when it is told to go on. */
#include "victim.h"

int main(int argc, char **argv)
{
	static char path[PATH_MAX];
	pid_t child;

	victim_begin(argc, argv);
	victim_path(path, "go");
	child = vfork();
	if (child < 0)
		victim_die("vfork: %m");
	if (!child) {
		/* It runs in the parent's memory and stack: nothing but system calls. */
		victim_write_file("ready", "");
		while (access(path, F_OK))
			k_sleep_ms(2);
		_exit(0);
	}
	expect_int(child, waitpid(child, NULL, 0), "waiting for the child");
	return victim_end();
}
