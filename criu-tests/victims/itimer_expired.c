// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A periodic ITIMER_REAL that has expired is not armed until its SIGALRM is delivered. pending: the signal is blocked.
 * ignored: it was ignored, so that it will never be delivered. The other two have an interval and are not armed.
 */
#include "victim.h"

#include <sys/time.h>

static void expect_not_armed(int which, long interval, const char *what)
{
	struct itimerval now;

	if (getitimer(which, &now))
		victim_die("getitimer: %m");
	expect_int(0, now.it_value.tv_sec * 1000000 + now.it_value.tv_usec, "what remains of %s", what);
	expect_int(interval, now.it_interval.tv_sec, "interval of %s", what);
}

int main(int argc, char **argv)
{
	struct itimerval periodic = { .it_value = { 0, 1000 }, .it_interval = { 1000, 0 } };
	struct itimerval unarmed = { .it_interval = { 2000, 0 } };
	struct k_sigaction act = { .handler = (unsigned long)SIG_IGN };
	struct itimerval now;
	siginfo_t info;
	int ignored;

	victim_begin(argc, argv);
	ignored = !strcmp(victim_arg(), "ignored");
	if (ignored)
		k_sigaction(SIGALRM, &act, NULL);
	else
		k_setmask(SIGBIT(SIGALRM));
	if (setitimer(ITIMER_REAL, &periodic, NULL) || setitimer(ITIMER_VIRTUAL, &unarmed, NULL) ||
	    setitimer(ITIMER_PROF, &unarmed, NULL))
		victim_die("setitimer: %m");
	do {
		k_sleep_ms(1);
		getitimer(ITIMER_REAL, &now);
	} while (now.it_value.tv_sec || now.it_value.tv_usec);

	victim_checkpoint();

	expect_not_armed(ITIMER_REAL, 1000, "ITIMER_REAL");
	expect_not_armed(ITIMER_VIRTUAL, 2000, "ITIMER_VIRTUAL");
	expect_not_armed(ITIMER_PROF, 2000, "ITIMER_PROF");
	k_setmask(SIGBIT(SIGALRM));
	if (ignored) {
		expect_int(0, k_take(SIGBIT(SIGALRM), &info), "a signal that was ignored");
	} else {
		expect_int(SIGALRM, k_take(SIGBIT(SIGALRM), &info), "the timer's signal");
		getitimer(ITIMER_REAL, &now);
		if (now.it_value.tv_sec < 900)
			victim_fail("what remains when it is delivered", "nearly a period", "less");
	}
	return victim_end();
}
