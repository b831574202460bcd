// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * One-shot POSIX timers that have expired while their signal was blocked: one sends it to the process, one to a
 * thread.
 */
#include "victim.h"

static int make_timer(int sig, int notify, pid_t tid, int value)
{
	struct sigevent event;
	struct itimerspec spec = { .it_value = { 0, 1000000 } };
	int id;

	memset(&event, 0, sizeof(event));
	event.sigev_notify = notify;
	event.sigev_signo = sig;
	event.sigev_value.sival_int = value;
	/* sigev_notify_thread_id, for which this glibc has no public name. */
	event._sigev_un._tid = tid;
	if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id) || syscall(SYS_timer_settime, id, 0, &spec, NULL))
		victim_die("timer: %m");
	return id;
}

static void expect_expiry(int sig, int id, int value)
{
	siginfo_t info;
	struct itimerspec left;

	expect_int(sig, k_take(SIGBIT(sig), &info), "the timer's signal");
	expect_int(SI_TIMER, info.si_code, "si_code");
	expect_int(id, info.si_timerid, "si_timerid");
	expect_int(0, info.si_overrun, "si_overrun");
	expect_int(value, info.si_int, "si_int");
	expect_int(0, k_take(SIGBIT(sig), &info), "second signal of a one-shot timer");
	expect_int(0, syscall(SYS_timer_gettime, id, &left), "timer_gettime");
	expect_int(0, left.it_value.tv_sec || left.it_value.tv_nsec, "time left");
}

static void thread(int index)
{
	int id;

	/* The leader's signal goes to the process: it must find no thread that does not block it. */
	k_setmask(SIGBIT(SIGRTMIN + 1) | SIGBIT(SIGRTMIN + 2));
	id = make_timer(SIGRTMIN + 2, SIGEV_THREAD_ID, k_gettid(), index);
	k_sleep_ms(20);
	victim_pause();
	expect_expiry(SIGRTMIN + 2, id, index);
}

int main(int argc, char **argv)
{
	int id;

	victim_begin(argc, argv);
	k_setmask(SIGBIT(SIGRTMIN + 1));
	victim_thread(thread, 6);
	id = make_timer(SIGRTMIN + 1, SIGEV_SIGNAL, 0, 5);
	while (!(victim_shared_pending() & SIGBIT(SIGRTMIN + 1)))
		k_sleep_ms(1);
	victim_checkpoint();
	expect_expiry(SIGRTMIN + 1, id, 5);
	return victim_end();
}
