// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A periodic timer whose signal is ignored, and blocked in the thread that it is meant for: its expiries are queued all
 * the same. glibc makes such a timer, and such a thread, of SIGEV_THREAD.
 */
#include "victim.h"

#define SIG (SIGRTMIN + 1)

static int id;

static void arm(long long ns, long long interval)
{
	struct itimerspec spec = {
		.it_value = { ns / 1000000000, ns % 1000000000 },
		.it_interval = { interval / 1000000000, interval % 1000000000 },
	};

	if (syscall(SYS_timer_settime, id, 0, &spec, NULL))
		victim_die("timer_settime: %m");
}

static void thread(int index)
{
	struct sigevent event;
	siginfo_t info;

	k_setmask(SIGBIT(SIG));
	memset(&event, 0, sizeof(event));
	event.sigev_notify = SIGEV_THREAD_ID;
	event.sigev_signo = SIG;
	event.sigev_value.sival_int = index;
	event._sigev_un._tid = k_gettid();
	if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id))
		victim_die("timer_create: %m");
	/* Not during the checkpoint. */
	arm(3600000000000, 3600000000000);
	victim_pause();
	expect_int(0, k_take(SIGBIT(SIG), &info), "a signal before the timer has expired");
	arm(1000000, 3600000000000);
	for (int i = 0; i < 1000 && !k_take(SIGBIT(SIG), &info); i++)
		k_sleep_ms(1);
	expect_int(SIG, info.si_signo, "the timer's signal");
	expect_int(SI_TIMER, info.si_code, "si_code");
	expect_int(index, info.si_int, "si_int");
}

int main(int argc, char **argv)
{
	struct k_sigaction act = { .handler = (unsigned long)SIG_IGN };

	victim_begin(argc, argv);
	k_sigaction(SIG, &act, NULL);
	victim_thread(thread, 7);
	victim_checkpoint();
	return victim_end();
}
