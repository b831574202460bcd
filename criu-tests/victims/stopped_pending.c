// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A child is stopped, and a signal that would end it is pending and not blocked: it lives until somebody sends
 * SIGCONT.
 */
#include "victim.h"

static pid_t child;

static void wait_for_state(char state)
{
	for (int i = 0; i < 2000 && victim_state_of(child) != state; i++)
		k_sleep_ms(1);
}

int main(int argc, char **argv)
{
	char e[2] = "T", g[2] = { 0 };
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
	wait_for_state('T');
	/* Its status is consumed here, so that it cannot come again. */
	if (waitpid(child, &status, WUNTRACED) != child || !WIFSTOPPED(status))
		victim_die("the child did not stop");
	kill(child, SIGTERM);

	victim_checkpoint();

	g[0] = victim_state_of(child);
	if (g[0] != 'T')
		victim_fail("state of the child", e, g);
	kill(child, SIGCONT);
	expect_int(child, waitpid(child, &status, 0), "the child's end");
	expect_int(SIGTERM, status, "its status");
	return victim_end();
}
