// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * As many processes and threads as the argument says: PROCESSES,THREADS[,DEPTH]. Each thread has its own mask and alternate
 * stack, and one signal with a value in its queue, or DEPTH of them. They wait until somebody ends them.
 *
 * For measuring: it does not record its state as the other victims do, and has more threads than those may have.
 */
#include "victim.h"

#include <pthread.h>
#include <semaphore.h>

enum { STACK = 64 * 1024, ALT_STACK = 8192 };

static int processes, threads, depth = 1;
static sem_t *ready;

static void set_up(int index)
{
	stack_t ss = { .ss_size = ALT_STACK + 16 * (index % 64), .ss_sp = malloc(2 * ALT_STACK) };
	siginfo_t info = info_value(SIGRTMIN + 1, index);

	if (!ss.ss_sp || sigaltstack(&ss, NULL))
		victim_die("sigaltstack: %m");
	k_setmask(SIGBIT(SIGRTMIN + 1) | SIGBIT(SIGUSR1) | SIGBIT(index % 8 + 1));
	for (int i = 0; i < depth; i++)
		k_queue_private(&info);
}

static void *thread(void *index)
{
	set_up((int)(intptr_t)index);
	sem_post(ready);
	for (;;)
		pause();
	return NULL;
}

static void process(void)
{
	pthread_attr_t attr;
	pthread_t id;

	if (pthread_attr_init(&attr) || pthread_attr_setstacksize(&attr, STACK))
		victim_die("pthread_attr_setstacksize");
	for (int i = 1; i < threads; i++) {
		errno = pthread_create(&id, &attr, thread, (void *)(intptr_t)i);
		if (errno)
			victim_die("pthread_create: %m");
	}
	set_up(0);
	sem_post(ready);
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	if (sscanf(victim_arg(), "%d,%d,%d", &processes, &threads, &depth) < 2 || processes < 1 || threads < 1)
		victim_die("the argument is PROCESSES,THREADS[,DEPTH]");
	ready = mmap(NULL, sizeof(*ready), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (ready == MAP_FAILED || sem_init(ready, 1, 0))
		victim_die("sem_init: %m");
	for (int i = 1; i < processes; i++) {
		pid_t pid = fork();

		if (pid < 0)
			victim_die("fork: %m");
		if (!pid) {
			process();
			for (;;)
				pause();
		}
	}
	process();
	for (int i = 0; i < processes * threads; i++)
		while (sem_wait(ready))
			;
	victim_write_file("ready", "");
	for (;;)
		pause();
}
