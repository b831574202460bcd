// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A periodic timer of a millisecond whose first expiry was taken late, so that timer_getoverrun(2) says something, and whose
 * next has been pending for longer than the process is held back for both counts to be had.
 */
#include "victim.h"

#define SIG (SIGRTMIN + 1)
#define MS 1000000

static void wait_pending(void)
{
	while (!(victim_shared_pending() & SIGBIT(SIG)))
		k_sleep_ms(1);
}

int main(int argc, char **argv)
{
	struct itimerspec spec = { .it_value = { 0, MS }, .it_interval = { 0, MS } };
	struct sigevent event;
	siginfo_t info;
	long before;
	int id;

	victim_begin(argc, argv);
	k_setmask(ALL_SIGNALS);
	memset(&event, 0, sizeof(event));
	event.sigev_notify = SIGEV_SIGNAL;
	event.sigev_signo = SIG;
	if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id) || syscall(SYS_timer_settime, id, 0, &spec, NULL))
		victim_die("timer: %m");
	wait_pending();
	k_sleep_ms(5);
	if (!k_take(SIGBIT(SIG), &info) || info.si_overrun < 1)
		victim_die("the first expiry was not late");
	before = syscall(SYS_timer_getoverrun, id);
	wait_pending();
	k_sleep_ms(150);

	victim_checkpoint();

	if (argc > 2 && syscall(SYS_timer_getoverrun, id) != before)
		victim_fail("timer_getoverrun", "that of the delivery before", "another");
	expect_int(SIG, k_take(SIGBIT(SIG), &info), "the timer's signal");
	if (info.si_overrun < 149)
		victim_fail("overrun", "149 or more", "less");
	return victim_end();
}
