// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A child is stopped, and a signal that would end it is pending and not blocked: it lives until somebody sends
 * SIGCONT.
 */
#include "victim.h"

static pid_t child;

int main(int argc, char **argv)
{
	int status;

	victim_begin(argc, argv);
	child = fork();
	if (child < 0)
		victim_die("fork: %m");
	if (!child) {
		kill(getpid(), SIGSTOP);
		for (;;)
			pause();
	}
	victim_comes_to(child, 'T');
	/* Its status is consumed here, so that it cannot come again. */
	if (waitpid(child, &status, WUNTRACED) != child || !WIFSTOPPED(status))
		victim_die("the child did not stop");
	kill(child, SIGTERM);

	victim_checkpoint();

	victim_expect_stopped(child, "state of the child");
	kill(child, SIGCONT);
	expect_int(child, waitpid(child, &status, 0), "the child's end");
	expect_int(SIGTERM, status, "its status");
	return victim_end();
}
