// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Changes its signal state step by step, each when the file `step1`, `step2` and so on is there: for those who watch it.
 */
#include "victim.h"

#include <pthread.h>
#include <sys/prctl.h>
#include <sys/time.h>

static pthread_t thread;

static void wait_for(int step)
{
	char path[PATH_MAX], name[32];

	snprintf(name, sizeof(name), "step%d", step);
	victim_path(path, name);
	while (access(path, F_OK))
		k_sleep_ms(10);
}

void on_term(int sig)
{
	(void)sig;
}

static void *thread_main(void *arg)
{
	(void)arg;
	wait_for(5);
	return NULL;
}

int main(int argc, char **argv)
{
	struct k_sigaction act = { .handler = (unsigned long)on_term,
				   .flags = K_SA_RESTORER,
				   .restorer = victim_restorer(0) };
	struct itimerspec hour = { .it_value = { 3600, 0 }, .it_interval = { 1, 0 } };
	struct itimerval real = { .it_value = { 3600, 0 }, .it_interval = { 7, 0 } };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN };
	static char stack[65536];
	stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) };
	stack_t none = { .ss_flags = SS_DISABLE };
	siginfo_t info;
	int timer;

	victim_begin(argc, argv);
	victim_write_file("ready", "");
	wait_for(1);
	k_setmask(SIGBIT(SIGUSR1));
	wait_for(2);
	k_sigaction(SIGTERM, &act, NULL);
	wait_for(3);
	if (sigaltstack(&alternate, NULL))
		victim_die("sigaltstack: %m");
	wait_for(4);
	/* A thread that has an alternate stack and runs is not read by BPF: from here on it would take longer. */
	if (sigaltstack(&none, NULL))
		victim_die("sigaltstack: %m");
	if (pthread_create(&thread, NULL, thread_main, NULL))
		victim_die("pthread_create: %m");
	pthread_join(thread, NULL);
	wait_for(6);
	if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer))
		victim_die("timer_create: %m");
	wait_for(7);
	if (syscall(SYS_timer_settime, timer, 0, &hour, NULL))
		victim_die("timer_settime: %m");
	wait_for(8);
	if (syscall(SYS_timer_delete, timer))
		victim_die("timer_delete: %m");
	wait_for(9);
	if (setitimer(ITIMER_REAL, &real, NULL))
		victim_die("setitimer: %m");
	wait_for(10);
	if (k_take(SIGBIT(SIGUSR1), &info) != SIGUSR1)
		victim_die("SIGUSR1 is not pending");
	wait_for(11);
	prctl(PR_SET_NAME, "stepped");
	wait_for(12);
	execl("/bin/sleep", "sleep", "1000", (char *)NULL);
	victim_die("execl: %m");
}
