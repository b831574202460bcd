// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A periodic timer of a millisecond whose first expiry was taken late, so that timer_getoverrun(2) says something, and whose
 * next has been pending for longer than the process is held back for both counts to be had.
 *
 * "slow": a timer of a second, whose second expiry has just been missed. "beside": the same, behind another entry of its
 * number. "own": as without an argument, and the leader has an entry of the number in its own queue.
 */
#include "victim.h"

#define SIG (SIGRTMIN + 1)
#define MS 1000000

static void wait_pending(void)
{
	while (!(victim_shared_pending() & SIGBIT(SIG)))
		k_sleep_ms(1);
}

static void take(int code, siginfo_t *info, const char *what)
{
	expect_int(SIG, k_take(SIGBIT(SIG), info), "%s", what);
	expect_int(code, info->si_code, "%s, its code", what);
}

static int slow(int id, int beside)
{
	const long long period = 1000 * MS;
	struct itimerspec spec = { .it_value = { 1, 0 }, .it_interval = { 1, 0 } };
	siginfo_t info = info_value(SIG, 7);
	long long earliest, latest, missed, most;

	if (beside)
		k_queue_shared(&info);
	earliest = k_now_ns() + period;
	if (syscall(SYS_timer_settime, id, 0, &spec, NULL))
		victim_die("timer_settime: %m");
	latest = k_now_ns() + period;
	while (k_now_ns() < latest + period + period / 10)
		k_sleep_ms(20);
	missed = (k_now_ns() - latest) / period;

	victim_checkpoint();

	if (beside)
		take(SI_QUEUE, &info, "the entry before the timer's");
	take(SI_TIMER, &info, "the timer's signal");
	most = (k_now_ns() - earliest) / period;
	if (info.si_overrun < missed || info.si_overrun > most)
		victim_fail("overrun", "what the clock says", "another");
	return victim_end();
}

int main(int argc, char **argv)
{
	struct itimerspec spec = { .it_value = { 0, MS }, .it_interval = { 0, MS } };
	siginfo_t info;
	long before;
	int id, own;

	victim_begin(argc, argv);
	own = victim_arg() && !strcmp(victim_arg(), "own");
	k_setmask(ALL_SIGNALS);
	id = k_timer(SIG, 0);
	if (victim_arg() && !strcmp(victim_arg(), "slow"))
		return slow(id, 0);
	if (victim_arg() && !strcmp(victim_arg(), "beside"))
		return slow(id, 1);
	if (syscall(SYS_timer_settime, id, 0, &spec, NULL))
		victim_die("timer_settime: %m");
	wait_pending();
	k_sleep_ms(5);
	if (!k_take(SIGBIT(SIG), &info) || info.si_overrun < 1)
		victim_die("the first expiry was not late");
	before = syscall(SYS_timer_getoverrun, id);
	wait_pending();
	k_sleep_ms(150);
	if (own) {
		info = info_value(SIG, 7);
		k_queue_private(&info);
	}

	victim_checkpoint();

	if (own) {
		take(SI_QUEUE, &info, "the leader's own entry");
		take(SI_TIMER, &info, "the timer's signal");
		return victim_end();
	}

	if (argc > 2 && syscall(SYS_timer_getoverrun, id) != before)
		victim_fail("timer_getoverrun", "that of the delivery before", "another");
	expect_int(SIG, k_take(SIGBIT(SIG), &info), "the timer's signal");
	if (info.si_overrun < 149)
		victim_fail("overrun", "149 or more", "less");
	return victim_end();
}
