// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A thread beside the leader has made a child, which has ended and is not waited for until after the checkpoint: by SIGRTMAX,
 * which CRIU cannot recreate, or by SIGKILL where the argument says so, which CRIU can.
 */
#include "victim.h"

static pid_t child;

static void make_child(int index)
{
	siginfo_t info;

	(void)index;
	child = fork();
	if (child < 0)
		victim_die("fork: %m");
	if (!child)
		for (;;)
			pause();
	if (kill(child, strcmp(victim_arg(), "9") ? SIGRTMAX : SIGKILL) ||
	    waitid(P_PID, child, &info, WEXITED | WNOWAIT))
		victim_die("the end of the child: %m");
	victim_pause();
}

int main(int argc, char **argv)
{
	int status;

	victim_begin(argc, argv);
	victim_thread(make_child, 1);
	victim_checkpoint();
	if (waitpid(child, &status, 0) != child)
		victim_fail("waiting for the child", "its end", strerror(errno));
	return victim_end();
}
