// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Two periodic timers whose signal is ignored, and that have expired: the kernel keeps their entries aside, the one that came last
 * before the other, and both are pending as soon as the signal has a handler. Another thread does not block the signal.
 *
 * "first": the timer that was made first expires last. "fast": one timer, whose period is shorter than a restore takes.
 */
#include "victim.h"

#define SIG (SIGRTMIN + 1)
/* Nanoseconds; milliseconds. */
#define FAST 300000
#define LONG 100

int main(int argc, char **argv);

static volatile int blocks;

static void thread(int index)
{
	(void)index;
	k_setmask(0);
	victim_pause();
	k_setmask(ALL_SIGNALS);
	blocks = 1;
}

static void start(int value, long delay_ms, struct timespec interval)
{
	struct itimerspec spec = {
		.it_value = { 0, delay_ms * 1000000 },
		.it_interval = interval,
	};

	if (syscall(SYS_timer_settime, k_timer(SIG, value), 0, &spec, NULL))
		victim_die("timer_settime: %m");
}

static int fast(void)
{
	struct k_sigaction handled = { .handler = (unsigned long)main };
	siginfo_t info;

	start(1, 1, (struct timespec){ 0, FAST });
	k_sleep_ms(LONG);

	victim_checkpoint();

	k_setmask(ALL_SIGNALS);
	while (!blocks)
		k_sleep_ms(1);
	k_sigaction(SIG, &handled, NULL);
	expect_int(SIG, k_take(SIGBIT(SIG), &info), "the timer's signal");
	if (info.si_overrun < LONG * 1000000ll / FAST - 10)
		victim_fail("overrun", "all before the checkpoint at least", "less");
	return victim_end();
}

int main(int argc, char **argv)
{
	const struct timespec hour = { 3600, 0 };
	struct k_sigaction ignored = { .handler = (unsigned long)SIG_IGN };
	struct k_sigaction handled = { .handler = (unsigned long)main };
	int last = 2;
	siginfo_t info;

	victim_begin(argc, argv);
	if (victim_arg() && !strcmp(victim_arg(), "first"))
		last = 1;
	k_sigaction(SIG, &ignored, NULL);
	victim_thread(thread, 7);
	if (victim_arg() && !strcmp(victim_arg(), "fast"))
		return fast();
	start(1, last == 1 ? 40 : 1, hour);
	start(2, last == 2 ? 40 : 1, hour);
	k_sleep_ms(100);

	victim_checkpoint();

	k_setmask(ALL_SIGNALS);
	while (!blocks)
		k_sleep_ms(1);
	k_sigaction(SIG, &handled, NULL);
	for (int i = 0; i < 2; i++) {
		int value = i ? 3 - last : last;

		expect_int(SIG, k_take(SIGBIT(SIG), &info), "the signal of timer %d", value);
		expect_int(SI_TIMER, info.si_code, "its code");
		expect_int(value, info.si_int, "its value");
		expect_int(0, info.si_overrun, "its overrun");
	}
	return victim_end();
}
