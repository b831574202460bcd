// SPDX-License-Identifier: GPL-2.0-or-later
/* Cases 6, 7, 12 to 16 and 24: what is queued, of which kind, and under which limit. */
#include "gap.h"

#include <pthread.h>

#define THREADS 8

static int set_up[THREADS], kept[THREADS], done[THREADS], released;

static siginfo_t info_of(int sig, int code)
{
	siginfo_t info;

	memset(&info, 0, sizeof(info));
	info.si_signo = sig;
	info.si_code = code;
	return info;
}

static void queue_private(siginfo_t *info)
{
	if (syscall(SYS_rt_tgsigqueueinfo, getpid(), gap_tid(), info->si_signo, info))
		gap_die("rt_tgsigqueueinfo(%d): %m", info->si_signo);
}

static void queue_value(int sig, int value)
{
	siginfo_t info = info_of(sig, SI_QUEUE);

	info.si_pid = getpid();
	info.si_uid = getuid();
	info.si_int = value;
	if (syscall(SYS_rt_sigqueueinfo, getpid(), sig, &info))
		gap_die("rt_sigqueueinfo(%d): %m", sig);
}

static void queue_fault(int sig)
{
	/* SEGV_MAPERR, BUS_ADRALN, SYS_SECCOMP, FPE_INTDIV, ILL_ILLOPC: 1 of each. */
	siginfo_t info = info_of(sig, 1);

	info.si_addr = (void *)(0x1000ul * (unsigned long)sig);
	queue_private(&info);
}

static void limit(long soft, long hard)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_SIGPENDING, &lim))
		gap_die("getrlimit: %m");
	lim.rlim_cur = (rlim_t)soft;
	if (hard >= 0)
		lim.rlim_max = (rlim_t)hard;
	if (setrlimit(RLIMIT_SIGPENDING, &lim))
		gap_die("setrlimit(%ld, %ld): %m", soft, hard);
}

static void say_limit(void)
{
	struct rlimit lim;

	getrlimit(RLIMIT_SIGPENDING, &lim);
	gap_say("limit: soft %s", lim.rlim_cur < 100 ? "as set" : "another");
	gap_say("hard %s", lim.rlim_max < 100 ? "low" : "high");
}

static void say_pending(void)
{
	char shared[1024], private[1024];

	gap_say("shared: %s", gap_names(gap_status(getpid(), 0, "ShdPnd"), shared));
	gap_say("private: %s", gap_names(gap_status(getpid(), gap_tid(), "SigPnd"), private));
}

static void *fault_thread(void *arg)
{
	(void)arg;
	queue_fault(SIGSEGV);
	set_up[0] = 1;
	while (!__atomic_load_n(&released, __ATOMIC_SEQ_CST))
		gap_sleep(2);
	say_pending();
	gap_say_queue(ALL);
	gap_end();
}

static void *sigchld_thread(void *arg)
{
	long i = (long)arg;
	siginfo_t info;

	if (syscall(SYS_tgkill, getpid(), gap_tid(), SIGCHLD))
		gap_die("tgkill: %m");
	__atomic_store_n(&set_up[i], 1, __ATOMIC_SEQ_CST);
	while (!__atomic_load_n(&released, __ATOMIC_SEQ_CST))
		gap_sleep(2);
	kept[i] = gap_take(BIT(SIGCHLD), &info) == SIGCHLD && info.si_code == SI_TKILL;
	__atomic_store_n(&done[i], 1, __ATOMIC_SEQ_CST);
	for (;;)
		pause();
}

static void start(void *(*fn)(void *), long n)
{
	pthread_t handle;

	if (pthread_create(&handle, NULL, fn, (void *)n))
		gap_die("pthread_create");
	while (!__atomic_load_n(&set_up[n], __ATOMIC_SEQ_CST))
		gap_sleep(1);
}

static void full_elsewhere(void)
{
	gap_setmask(ALL);
	for (int i = 0; i < 20; i++)
		queue_value(SIGRTMIN + 1, i);
	/* After queueing: what others of this uid have queued must not matter here. */
	limit(40, 40);
	if (gap_is("13-other-uid") && (setresgid(65001, 65001, 65001) || setresuid(65001, 65001, 65001)))
		gap_die("setresuid: %m");
	gap_touch("set-up");
	gap_wait_for("go");
	say_limit();
	gap_say_queue(BIT(SIGRTMIN + 1));
	gap_end();
}

static void case_13(void)
{
	pid_t root = gap_outside_of(full_elsewhere);

	gap_wait_for("set-up");
	gap_ready(root);
	/* Between dump and restore the uid's room is used up by somebody else: this process. */
	gap_wait_for("between");
	gap_setmask(ALL);
	for (int i = 0; i < 100; i++)
		queue_value(SIGRTMIN + 2, i);
	gap_touch("between-done");
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	gap_begin(argc, argv);
	gap_setmask(ALL);
	if (gap_is("6-shared")) {
		kill(getpid(), SIGTRAP);
	} else if (gap_is("6-private")) {
		syscall(SYS_tgkill, getpid(), gap_tid(), SIGTRAP);
	} else if (gap_is("7-segv")) {
		queue_fault(SIGSEGV);
	} else if (gap_is("7-all")) {
		queue_fault(SIGSEGV);
		queue_fault(SIGBUS);
		queue_fault(SIGSYS);
		queue_fault(SIGFPE);
		queue_fault(SIGILL);
		queue_value(SIGRTMIN + 1, 5);
	} else if (gap_is("7-thread")) {
		start(fault_thread, 0);
		gap_checkpoint();
		__atomic_store_n(&released, 1, __ATOMIC_SEQ_CST);
		for (;;)
			pause();
	} else if (!strncmp(gap_sub(), "12-", 3)) {
		for (int i = 0; i < 20; i++)
			queue_value(SIGRTMIN + 1, i);
		limit(5, gap_is("12-hard") ? 5 : -1);
		gap_checkpoint();
		say_limit();
		gap_say_queue(ALL);
		gap_end();
	} else if (!strncmp(gap_sub(), "13-", 3)) {
		case_13();
	} else if (!strncmp(gap_sub(), "14-", 3)) {
		/* Legacy signals with si_code < 0: where the limit refuses their siginfo, the kernel sets the bit. */
		syscall(SYS_tgkill, getpid(), gap_tid(), SIGUSR1);
		queue_value(SIGUSR2, 7);
		queue_value(SIGHUP, 8);
		limit(0, gap_is("14-hard") ? 0 : -1);
		gap_checkpoint();
		say_limit();
		gap_say_queue(ALL);
		gap_end();
	} else if (!strncmp(gap_sub(), "15-", 3)) {
		/* Without the limit they would have their siginfo: value 7, the sender's pid. */
		limit(0, -1);
		if (gap_is("15-shared")) {
			queue_value(SIGUSR1, 7);
			kill(getpid(), SIGRTMIN + 3);
		} else {
			syscall(SYS_tgkill, getpid(), gap_tid(), SIGUSR1);
		}
		limit(90, -1);
	} else if (!strncmp(gap_sub(), "16-", 3)) {
		struct sigaction ignored = { .sa_handler = SIG_IGN };
		int n = 0;

		if (gap_is("16-ignored"))
			sigaction(SIGCHLD, &ignored, NULL);
		for (long i = 0; i < THREADS; i++)
			start(sigchld_thread, i);
		gap_checkpoint();
		__atomic_store_n(&released, 1, __ATOMIC_SEQ_CST);
		for (int i = 0; i < THREADS; i++) {
			while (!__atomic_load_n(&done[i], __ATOMIC_SEQ_CST))
				gap_sleep(1);
			n += kept[i];
		}
		if (n == THREADS)
			gap_say("every thread has its SIGCHLD");
		else
			gap_say("SIGCHLD lost in some threads");
		gap_end();
	} else if (!strncmp(gap_sub(), "24-", 3)) {
		int depth = atoi(gap_sub() + 3);

		for (int i = 0; i < depth; i++)
			queue_value(SIGRTMIN + 1, i);
	} else {
		gap_die("no such sub-case");
	}
	gap_checkpoint();
	say_pending();
	gap_say_queue(ALL);
	gap_end();
}
