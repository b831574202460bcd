// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Each thread has a parent-death signal of its own. Both are ignored by default, but with the argument `term` the leader's
 * ends the process. With `kill` the leader's is SIGKILL at the end: somebody else sets it, when the first parent has ended.
 */
#include "victim.h"

#include <sys/prctl.h>

static void set(int sig)
{
	if (prctl(PR_SET_PDEATHSIG, sig))
		victim_die("PR_SET_PDEATHSIG: %m");
}

static void check(int sig, const char *whose)
{
	int got = -1;

	if (prctl(PR_GET_PDEATHSIG, &got))
		victim_die("PR_GET_PDEATHSIG: %m");
	expect_int(sig, got, "parent-death signal of %s", whose);
}

static void thread(int index)
{
	(void)index;
	set(SIGURG);
	victim_pause();
	check(SIGURG, "the thread");
}

int main(int argc, char **argv)
{
	int sig;

	victim_begin(argc, argv);
	sig = strcmp(victim_arg(), "term") ? SIGWINCH : SIGTERM;
	set(sig);
	victim_thread(thread, 1);
	victim_checkpoint();
	check(strcmp(victim_arg(), "kill") ? sig : SIGKILL, "the leader");
	return victim_end();
}
