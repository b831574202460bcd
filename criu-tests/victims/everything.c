// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the plugin does something about, all in one program, for the fault points: a SIGTRAP and a fault signal pending,
 * which are taken out for a dump; a pending bit without siginfo and a timer's entry, which CRIU loses; calls that a
 * stop ends with EINTR; a child in a stop that CRIU refuses; queues, masks, stacks and dispositions; and a thread that
 * would notice a foreign register.
 *
 * Argument "no-marker": no signal is ignored that injected code could end its batch with.
 */
#include "victim.h"

#include <sys/resource.h>

#define MASK (SIGBIT(SIGCHLD) | SIGBIT(SIGTRAP) | SIGBIT(SIGHUP) | SIGBIT(SIGUSR1) | SIGBIT(K_SIGRTMIN + 8) | \
	      SIGBIT(K_SIGRTMIN + 9) | SIGBIT(K_SIGRTMIN + 10))

static char stacks[2][64 * 1024] __attribute__((aligned(64)));
static pid_t child;

static void handler(int sig)
{
	(void)sig;
}

static uint64_t stir(uint64_t x, int rounds)
{
	for (int i = 0; i < rounds; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
	}
	return x;
}

static void spin(int index)
{
	uint64_t x = 88172645463325252ull + (uint64_t)index;

	k_setmask(MASK);
	victim_settle(-1);
	while (!victim_released()) {
		uint64_t y = stir(x, 200000);

		if (y != stir(x, 200000))
			victim_fail("registers of the spinning thread", "the same result twice", "two results");
		x = y;
		k_sleep_ms(2);
	}
}

/* The kernel goes on with this one by its restart_block, and writes down how much time was left. */
static void nap(int index)
{
	k_setmask(MASK);
	victim_settle(-1);
	while (!victim_released()) {
		struct timespec time = { .tv_nsec = 20 * 1000 * 1000 }, left;

		expect_int(0, clock_nanosleep(CLOCK_MONOTONIC, 0, &time, &left), "clock_nanosleep of thread %d", index);
	}
}

static int watching;

static void watch(void)
{
	__atomic_store_n(&watching, 1, __ATOMIC_SEQ_CST);
}

/* The state is taken before the one and after the other by a tracer of our own, which is a stop as well. */
static int between_ready_and_go(void)
{
	char path[PATH_MAX];

	victim_path(path, "go");
	return __atomic_load_n(&watching, __ATOMIC_SEQ_CST) && access(path, F_OK);
}

/* A stop ends this one with EINTR. */
static void wait_for_signal(int index)
{
	/* What it waits for is not blocked: the kernel unblocks it for the wait, and that would show. */
	k_setmask(MASK);
	victim_settle(-1);
	while (!victim_released()) {
		struct timespec time = { .tv_nsec = 20 * 1000 * 1000 };
		uint64_t set = SIGBIT(K_SIGRTMIN + 12);
		int watched = between_ready_and_go();
		long got = syscall(SYS_rt_sigtimedwait, &set, NULL, &time, sizeof(set));
		int err = errno;

		if (got == -1 && err == EINTR && !(watched && between_ready_and_go()))
			continue;
		expect_int(-1, got, "rt_sigtimedwait of thread %d", index);
		expect_int(EAGAIN, err, "its errno");
	}
}

static void timer(int index)
{
	struct itimerspec spec = { .it_value = { 0, 1000000 }, .it_interval = { 0, 10000000 } };
	struct sigevent event;
	siginfo_t info;
	int id, sig = K_SIGRTMIN + 10;

	k_setmask(MASK);
	memset(&event, 0, sizeof(event));
	event.sigev_notify = SIGEV_THREAD_ID;
	event.sigev_signo = sig;
	event.sigev_value.sival_int = index;
	event._sigev_un._tid = k_gettid();
	if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id) || syscall(SYS_timer_settime, id, 0, &spec, NULL))
		victim_die("timer: %m");
	k_sleep_ms(20);
	victim_pause();
	/* Twice: the entry has to be the timer's own, or it would not be armed again. */
	for (int i = 0; i < 2; i++) {
		struct timespec time = { .tv_sec = 5 };
		uint64_t set = SIGBIT(sig);

		expect_int(sig, syscall(SYS_rt_sigtimedwait, &set, &info, &time, sizeof(set)), "expiry %d", i);
		expect_int(SI_TIMER, info.si_code, "its si_code");
		expect_int(index, info.si_int, "its value");
	}
}

static void queues(int index)
{
	stack_t ss = { .ss_sp = stacks[1], .ss_size = sizeof(stacks[1]), .ss_flags = (int)K_SS_AUTODISARM };
	siginfo_t info;

	if (sigaltstack(&ss, NULL))
		victim_die("sigaltstack: %m");
	k_setmask(ALL_SIGNALS);
	/* SEGV_MAPERR */
	info = info_pattern(SIGSEGV, 1, 5, INFO_WHOLE);
	k_queue_private(&info);
	k_tgkill(k_gettid(), SIGUSR1);
	for (int i = 0; i < 3; i++) {
		info = info_value(K_SIGRTMIN + 9, index * 100 + i);
		k_queue_private(&info);
	}
	victim_pause();
	victim_drain();
}

static void limit(rlim_t soft)
{
	struct rlimit lim;

	getrlimit(RLIMIT_SIGPENDING, &lim);
	lim.rlim_cur = soft;
	if (setrlimit(RLIMIT_SIGPENDING, &lim))
		victim_die("setrlimit: %m");
}

static void stop_child(void)
{
	siginfo_t info;
	int status;

	child = fork();
	if (child < 0)
		victim_die("fork: %m");
	if (!child) {
		/* In an orphaned process group SIGTTIN would stop nobody. */
		setpgid(0, 0);
		k_setmask(0);
		kill(getpid(), SIGTTIN);
		for (;;)
			pause();
	}
	victim_comes_to(child, 'T');
	if (waitpid(child, &status, WUNTRACED) != child || !WIFSTOPPED(status))
		victim_die("the child did not stop");
	while (k_take(SIGBIT(SIGCHLD), &info))
		;
	kill(child, SIGTERM);
}

static void check_child(void)
{
	int status;

	victim_expect_stopped(child, "state of the child");
	expect_int(0, waitpid(child, &status, WUNTRACED | WNOHANG), "what wait says of the stop, again");
	kill(child, SIGCONT);
	expect_int(child, waitpid(child, &status, 0), "the child's end");
	expect_int(SIGTERM, status, "its status");
}

int main(int argc, char **argv)
{
	struct k_sigaction act = { .handler = (unsigned long)handler,
				   .flags = SA_ONSTACK | SA_RESTART | K_SA_RESTORER,
				   .restorer = victim_restorer(0),
				   .mask = SIGBIT(SIGUSR2) };
	struct k_sigaction ignore = { .handler = (unsigned long)SIG_IGN };
	stack_t ss = { .ss_sp = stacks[0], .ss_size = sizeof(stacks[0]) };
	struct rlimit lim;
	rlim_t soft;
	siginfo_t info;

	victim_begin(argc, argv);
	k_setmask(MASK);
	stop_child();
	k_sigaction(SIGUSR1, &act, NULL);
	k_sigaction(SIGTERM, &act, NULL);
	if (!strcmp(victim_arg(), "no-marker")) {
		k_sigaction(SIGURG, &act, NULL);
		k_sigaction(SIGWINCH, &act, NULL);
	} else {
		k_sigaction(SIGPIPE, &ignore, NULL);
	}
	if (sigaltstack(&ss, NULL))
		victim_die("sigaltstack: %m");
	/* What is pending for the process comes before the threads: each of them has it blocked. */
	kill(getpid(), SIGTRAP);
	info = info_value(SIGHUP, 4711);
	k_queue_shared(&info);
	for (int i = 0; i < 3; i++) {
		info = info_value(K_SIGRTMIN + 9, i);
		k_queue_shared(&info);
	}
	k_tgkill(k_gettid(), SIGUSR1);
	getrlimit(RLIMIT_SIGPENDING, &lim);
	limit(0);
	kill(getpid(), K_SIGRTMIN + 8);
	limit(lim.rlim_cur);
	victim_thread(spin, 0);
	victim_thread(nap, 1);
	victim_thread(wait_for_signal, 2);
	victim_thread(timer, 3);
	victim_thread(queues, 4);
	victim_when_ready = watch;
	victim_checkpoint();
	soft = lim.rlim_cur;
	getrlimit(RLIMIT_SIGPENDING, &lim);
	expect_u64(soft, lim.rlim_cur, "soft RLIMIT_SIGPENDING");
	check_child();
	/* Of the child's end, and the bit that has no entry. */
	k_take(SIGBIT(SIGCHLD), &info);
	expect_int(K_SIGRTMIN + 8, k_take(SIGBIT(K_SIGRTMIN + 8), &info), "the bit without siginfo");
	victim_drain();
	return victim_end();
}
