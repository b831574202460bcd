// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Cases 8 to 11: the kernel's own entries of POSIX timers.
 *
 * A timer that is to have overruns is set to an absolute time in the past with an interval of 40 s: it expires
 * at once, the number of overruns is known, and no more come while the case runs.
 */
#include "gap.h"

#define INTERVAL 40

static int create_for(int notify, int sig, int value)
{
	struct sigevent event;
	int id;

	memset(&event, 0, sizeof(event));
	event.sigev_notify = notify;
	event._sigev_un._tid = notify == SIGEV_THREAD_ID ? gap_tid() : 0;
	event.sigev_signo = sig;
	event.sigev_value.sival_int = value;
	if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id))
		gap_die("timer_create: %m");
	return id;
}

static int create(int sig, int value)
{
	return create_for(SIGEV_SIGNAL, sig, value);
}

static void arm(int id, int first_ms, int interval_ms)
{
	struct itimerspec spec = {
		.it_value = { first_ms / 1000, first_ms % 1000 * 1000000l },
		.it_interval = { interval_ms / 1000, interval_ms % 1000 * 1000000l },
	};

	if (syscall(SYS_timer_settime, id, 0, &spec, NULL))
		gap_die("timer_settime: %m");
}

/* So that `overruns` intervals and a half have passed since the first expiry. False where the clock is too young. */
static void arm_in_the_past(int id, int overruns, double interval)
{
	struct itimerspec spec = { .it_interval = { (time_t)interval, (long)((interval - (double)(time_t)interval) * 1e9) } };
	double first = gap_now() - ((double)overruns + 0.5) * interval;

	if (first <= 0)
		gap_die("this machine has not been up long enough");
	spec.it_value.tv_sec = (time_t)first;
	spec.it_value.tv_nsec = (long)((first - (double)(time_t)first) * 1e9);
	if (syscall(SYS_timer_settime, id, TIMER_ABSTIME, &spec, NULL))
		gap_die("timer_settime: %m");
}

static void wait_pending(int sig)
{
	for (int i = 0; i < 5000 && !(gap_status(getpid(), 0, "ShdPnd") & BIT(sig)); i++)
		gap_sleep(1);
	if (!(gap_status(getpid(), 0, "ShdPnd") & BIT(sig)))
		gap_die("the timer's signal does not come");
}

/* The phase of the timer: half an interval was left when it was armed. */
static void say_left(int id, double interval)
{
	struct itimerspec left;
	double s;

	if (syscall(SYS_timer_gettime, id, &left)) {
		gap_say("timer_gettime: %s", strerrorname_np(errno));
		return;
	}
	s = (double)left.it_value.tv_sec + (double)left.it_value.tv_nsec / 1e9;
	gap_say("next expiry: %s", s == 0                ? "none" :
				   s > interval * 0.55   ? "too late" :
				   s > interval * 0.35   ? "on time" :
							   "too early");
}

static long overrun_of(int id)
{
	return syscall(SYS_timer_getoverrun, id);
}

static volatile int expiries, last_overrun;

static void handler(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)context;
	expiries++;
	last_overrun = info->si_overrun;
}

int main(int argc, char **argv)
{
	siginfo_t info;
	int id, other;

	gap_begin(argc, argv);
	gap_setmask(ALL);
	if (gap_is("8-two-timers")) {
		id = create(SIGUSR1, 1);
		other = create(SIGUSR1, 2);
		arm(id, 1, 0);
		gap_sleep(10);
		arm(other, 1, 0);
		gap_sleep(10);
		wait_pending(SIGUSR1);
		gap_checkpoint();
		gap_say_queue(ALL);
	} else if (gap_is("8-kill-and-timer")) {
		kill(getpid(), SIGUSR1);
		id = create(SIGUSR1, 1);
		arm(id, 1, 0);
		gap_sleep(20);
		gap_checkpoint();
		gap_say_queue(ALL);
	} else if (gap_is("9-gone") || gap_is("9-gone-thread")) {
		/* The entry is left behind, and nobody gets it. While it is there, it holds the place of its number. */
		id = create_for(gap_is("9-gone") ? SIGEV_SIGNAL : SIGEV_THREAD_ID, SIGUSR1, 1);
		arm(id, 1, 0);
		gap_sleep(20);
		syscall(SYS_timer_delete, id);
		gap_checkpoint();
		gap_say_queue(ALL);
	} else if (gap_is("9-forged")) {
		/* As the kernel makes it, but somebody's: delivered. */
		memset(&info, 0, sizeof(info));
		info.si_signo = SIGUSR1;
		info.si_code = SI_TIMER;
		info.si_timerid = 1;
		info.si_value.sival_int = 1;
		if (syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, &info))
			gap_die("rt_sigqueueinfo: %m");
		gap_checkpoint();
		gap_say_queue(ALL);
	} else if (gap_is("9-later")) {
		/* Set while its entry is pending, and to come only when more than a period has passed. */
		id = create(SIGUSR1, 1);
		arm(id, 1, INTERVAL * 1000);
		wait_pending(SIGUSR1);
		arm(id, 10 * INTERVAL * 1000, INTERVAL * 1000);
		gap_checkpoint();
		gap_say_queue(ALL);
	} else if (*gap_sub() == '9') {
		id = create(SIGUSR1, 1);
		arm(id, 1, 0);
		wait_pending(SIGUSR1);
		gap_checkpoint();
		if (gap_is("9-delete"))
			syscall(SYS_timer_delete, id);
		else if (gap_is("9-disarm"))
			arm(id, 0, 0);
		else
			arm(id, 30, 0);
		gap_sleep(100);
		gap_say_queue(ALL);
	} else if (gap_is("10-getoverrun")) {
		/* Delivered before; the program has not asked yet. */
		id = create(SIGUSR1, 1);
		arm_in_the_past(id, 10, INTERVAL);
		wait_pending(SIGUSR1);
		gap_take(BIT(SIGUSR1), &info);
		gap_checkpoint();
		gap_say("timer_getoverrun: %ld", overrun_of(id));
		say_left(id, INTERVAL);
		gap_say_queue(ALL);
	} else if (gap_is("10-pending")) {
		id = create(SIGUSR1, 1);
		arm_in_the_past(id, 10, INTERVAL);
		wait_pending(SIGUSR1);
		gap_checkpoint();
		gap_say_queue(ALL);
		gap_say("timer_getoverrun: %ld", overrun_of(id));
		say_left(id, INTERVAL);
	} else if (gap_is("10-ticking")) {
		/* One that goes on ticking: what it had missed at the checkpoint, at least. */
		id = create(SIGRTMIN + 1, 1);
		arm(id, 10, 10);
		wait_pending(SIGRTMIN + 1);
		gap_sleep(2000);
		gap_checkpoint();
		if (!gap_take(BIT(SIGRTMIN + 1), &info))
			gap_say("no expiry");
		else
			gap_say("expiry with an overrun %s", info.si_overrun >= 190 ? "of what was missed" : "that is too small");
	} else if (gap_is("11-ignored")) {
		struct sigaction action = { .sa_handler = SIG_IGN };

		gap_setmask(0);
		sigaction(SIGUSR1, &action, NULL);
		id = create(SIGUSR1, 1);
		arm_in_the_past(id, 2, INTERVAL);
		gap_sleep(50);
		gap_checkpoint();
		action.sa_sigaction = handler;
		action.sa_flags = SA_SIGINFO;
		sigaction(SIGUSR1, &action, NULL);
		gap_sleep(50);
		if (expiries)
			gap_say("%d expiry with overrun %d", expiries, last_overrun);
		else
			gap_say("no expiry");
		say_left(id, INTERVAL);
	} else {
		gap_die("no such sub-case");
	}
	gap_end();
}
