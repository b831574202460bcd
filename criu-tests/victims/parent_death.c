// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Each thread has a parent-death signal of its own. Both are ignored by default: a criu that ends is the parent of
 * what it has restored.
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
	victim_begin(argc, argv);
	set(SIGWINCH);
	victim_thread(thread, 1);
	victim_checkpoint();
	check(SIGWINCH, "the leader");
	return victim_end();
}
