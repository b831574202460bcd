// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the container scenarios run: a small tree of which every process has a different kind of state, and one that
 * CRIU alone does not keep whole.
 *
 *   the root    pid 1 of the container: a handler on an alternate stack, a thread with queued values, and a timer that
 *               has expired while its signal was blocked
 *   child 0     two threads with alternate stacks and masks of their own; values in the shared queue and in the
 *               private ones
 *   child 1     pending bits without an entry: CRIU loses them
 */
#include "victim.h"

#include <sys/resource.h>

/* In every thread: what goes to a process would be delivered to one that does not block it. */
#define BLOCKED (SIGBIT(SIGUSR1) | SIGBIT(SIGHUP) | SIGBIT(40) | SIGBIT(41) | SIGBIT(42))

static char stacks[2][64 * 1024] __attribute__((aligned(64)));
static int handled;

static void handler(int sig)
{
	char here;

	(void)sig;
	if (&here >= stacks[0] && &here < stacks[0] + sizeof(stacks[0]))
		handled++;
}

static void dispositions(void)
{
	struct k_sigaction act = { .handler = (unsigned long)handler,
				   .flags = SA_ONSTACK | SA_RESTART | K_SA_RESTORER,
				   .restorer = victim_restorer(0),
				   .mask = SIGBIT(SIGUSR2) };
	struct k_sigaction ignore = { .handler = (unsigned long)SIG_IGN };

	k_sigaction(SIGUSR1, &act, NULL);
	k_sigaction(SIGTERM, &act, NULL);
	k_sigaction(SIGPIPE, &ignore, NULL);
}

static void altstack(int index)
{
	stack_t ss = { .ss_sp = stacks[index],
		       .ss_size = sizeof(stacks[index]),
		       .ss_flags = index ? (int)K_SS_AUTODISARM : 0 };

	if (sigaltstack(&ss, NULL))
		victim_die("sigaltstack: %m");
}

static void queues(int index)
{
	siginfo_t info;

	altstack(index);
	k_setmask(BLOCKED | (index ? SIGBIT(SIGTERM) : 0));
	k_tgkill(k_gettid(), SIGUSR1);
	for (int i = 0; i < 3; i++) {
		info = info_value(40, index * 100 + i);
		k_queue_private(&info);
	}
}

static void thread(int index)
{
	queues(index);
	victim_pause();
	victim_drain();
}

static void child_with_queues(int index)
{
	siginfo_t info;

	(void)index;
	dispositions();
	queues(0);
	victim_thread(thread, 1);
	info = info_value(SIGHUP, 4711);
	k_queue_shared(&info);
	for (int i = 0; i < 3; i++) {
		info = info_value(41, 1000 + i);
		k_queue_shared(&info);
	}
	victim_checkpoint();
	victim_drain();
}

static void child_with_bits(int index)
{
	struct rlimit lim, none;
	siginfo_t info;

	(void)index;
	k_setmask(ALL_SIGNALS);
	getrlimit(RLIMIT_SIGPENDING, &lim);
	none = lim;
	none.rlim_cur = 0;
	if (setrlimit(RLIMIT_SIGPENDING, &none))
		victim_die("setrlimit: %m");
	kill(getpid(), SIGRTMIN + 5);
	k_tgkill(k_gettid(), SIGUSR2);
	if (setrlimit(RLIMIT_SIGPENDING, &lim))
		victim_die("setrlimit: %m");

	victim_checkpoint();

	expect_int(SIGRTMIN + 5, k_take(SIGBIT(SIGRTMIN + 5), &info), "the shared bit is pending");
	expect_int(0, info.si_pid, "its si_pid");
	expect_int(SIGUSR2, k_take(SIGBIT(SIGUSR2), &info), "the private bit is pending");
	expect_int(0, info.si_pid, "its si_pid");
}

static int expired_timer(int sig)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = sig, .sigev_value.sival_int = 5 };
	struct itimerspec spec = { .it_value = { 0, 1000000 } };
	int id;

	if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id) || syscall(SYS_timer_settime, id, 0, &spec, NULL))
		victim_die("timer: %m");
	while (!(victim_shared_pending() & SIGBIT(sig)))
		k_sleep_ms(1);
	return id;
}

int main(int argc, char **argv)
{
	siginfo_t info;
	int timer;

	victim_begin(argc, argv);
	victim_child(child_with_queues, 0);
	victim_child(child_with_bits, 1);
	dispositions();
	altstack(0);
	k_setmask(BLOCKED);
	victim_thread(thread, 1);
	k_tgkill(k_gettid(), SIGUSR1);
	timer = expired_timer(42);

	victim_checkpoint();

	expect_int(42, k_take(SIGBIT(42), &info), "the timer's signal");
	expect_int(SI_TIMER, info.si_code, "its si_code");
	expect_int(timer, info.si_timerid, "its si_timerid");
	expect_int(5, info.si_int, "its value");
	expect_int(0, k_take(SIGBIT(42), &info), "a second signal of the one-shot timer");
	k_setmask(0);
	expect_int(1, handled, "handlers run on the alternate stack");
	return victim_end();
}
