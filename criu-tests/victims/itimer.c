// SPDX-License-Identifier: GPL-2.0-or-later
/* The three interval timers have expired once while their signals were blocked. */
#include "victim.h"

#include <sys/time.h>

static const struct {
	int which, sig;
} timers[] = { { ITIMER_REAL, SIGALRM }, { ITIMER_VIRTUAL, SIGVTALRM }, { ITIMER_PROF, SIGPROF } };

int main(int argc, char **argv)
{
	struct itimerval once = { .it_value = { 0, 1000 } };
	uint64_t all = 0;
	siginfo_t info;

	victim_begin(argc, argv);
	for (int i = 0; i < 3; i++)
		all |= SIGBIT(timers[i].sig);
	k_setmask(all);
	for (int i = 0; i < 3; i++)
		if (setitimer(timers[i].which, &once, NULL))
			victim_die("setitimer: %m");
	while (victim_shared_pending() != all)
		;

	victim_checkpoint();

	for (int i = 0; i < 3; i++) {
		expect_int(timers[i].sig, k_take(SIGBIT(timers[i].sig), &info), "signal of timer %d", i);
		expect_int(0x80 /* SI_KERNEL */, info.si_code, "its si_code");
	}
	expect_int(0, k_take(ALL_SIGNALS, &info), "signal left");
	return victim_end();
}
