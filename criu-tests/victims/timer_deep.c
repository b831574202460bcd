// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A periodic timer of a second that has expired twice, so that its entry has an overrun, and is in the middle of a queue as deep
 * as the argument says, all of its number.
 */
#include "victim.h"

#define SIG (SIGRTMIN + 1)
#define PERIOD 1000000000ll

static void queue(int from, int to)
{
	for (int i = from; i < to; i++) {
		siginfo_t info = info_value(SIG, i);

		k_queue_shared(&info);
	}
}

static void take(int from, int to)
{
	siginfo_t info;

	for (int i = from; i < to; i++) {
		expect_int(SIG, k_take(SIGBIT(SIG), &info), "entry %d", i);
		expect_int(SI_QUEUE, info.si_code, "the code of entry %d", i);
		expect_int(i, info.si_int, "the value of entry %d", i);
	}
}

int main(int argc, char **argv)
{
	struct itimerspec spec = { .it_value = { 1, 0 }, .it_interval = { 1, 0 } };
	long long earliest, latest, missed, most;
	siginfo_t info;
	int depth, id;

	victim_begin(argc, argv);
	depth = atoi(victim_arg());
	if (depth <= 0)
		victim_die("no depth given");
	k_setmask(ALL_SIGNALS);
	id = k_timer(SIG, 0);
	queue(0, depth / 2);
	earliest = k_now_ns() + PERIOD;
	if (syscall(SYS_timer_settime, id, 0, &spec, NULL))
		victim_die("timer_settime: %m");
	latest = k_now_ns() + PERIOD;
	while (k_now_ns() < latest + PERIOD + PERIOD / 10)
		k_sleep_ms(20);
	queue(depth / 2, depth);
	missed = (k_now_ns() - latest) / PERIOD;

	victim_checkpoint();

	take(0, depth / 2);
	expect_int(SIG, k_take(SIGBIT(SIG), &info), "the timer's signal");
	expect_int(SI_TIMER, info.si_code, "the code of the timer's signal");
	most = (k_now_ns() - earliest) / PERIOD;
	if (info.si_overrun < missed || info.si_overrun > most)
		victim_fail("overrun", "what the clock says", "another");
	take(depth / 2, depth);
	for (int i = 0; i < 300 && !k_take(SIGBIT(SIG), &info); i++)
		k_sleep_ms(10);
	expect_int(SIG, info.si_signo, "the next expiry");
	expect_int(SI_TIMER, info.si_code, "the code of the next expiry");
	return victim_end();
}
