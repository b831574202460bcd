// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * RLIMIT_CPU, of which a part is used: the limit stays as it is, and SIGXCPU comes once it is used up. With the argument
 * "unused" almost nothing is used.
 */
#include "victim.h"

#include <sys/resource.h>

#define SOFT 2
#define HARD 3600
#define USED_MS 1200
/* What is used until the signal must have come, even if the time used begins anew. */
#define MOST_MS 20000

static volatile int got;

static void on_xcpu(int sig)
{
	got = sig;
}

static long used_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1000l + t.tv_nsec / 1000000;
}

int main(int argc, char **argv)
{
	struct rlimit lim = { .rlim_cur = SOFT, .rlim_max = HARD };

	victim_begin(argc, argv);
	signal(SIGXCPU, on_xcpu);
	if (setrlimit(RLIMIT_CPU, &lim))
		victim_die("setrlimit: %m");
	while (!*victim_arg() && used_ms() < USED_MS)
		;
	victim_checkpoint();
	getrlimit(RLIMIT_CPU, &lim);
	expect_u64(SOFT, lim.rlim_cur, "soft RLIMIT_CPU");
	expect_u64(HARD, lim.rlim_max, "hard RLIMIT_CPU");
	while (!got && used_ms() < MOST_MS)
		;
	expect_int(SIGXCPU, got, "the signal of the limit");
	return victim_end();
}
