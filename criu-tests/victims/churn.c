// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A process in which threads come and go all the time, and children that fork, exec this program again, are killed, and
 * end. `exec`: the process itself executes this program anew, over and over, from a thread as well. Whoever looks at it
 * is told that something has gone, or gets the whole of it; the program does its work.
 */
#include "victim.h"

#include <pthread.h>

static char go[PATH_MAX];
static unsigned long rounds;

static int told_to_end(void)
{
	return !access(go, F_OK);
}

static void *briefly(void *arg)
{
	volatile unsigned long x = (unsigned long)arg;

	for (int i = 0; i < 2000; i++)
		x = x * 31 + 7;
	return (void *)x;
}

static void *threads_come_and_go(void *arg)
{
	(void)arg;
	while (!told_to_end()) {
		pthread_t thread[4];
		unsigned long n;

		for (n = 0; n < 4; n++) {
			errno = pthread_create(&thread[n], NULL, briefly, (void *)n);
			/* No thread is made while another one calls execve (copy_fs). */
			if (errno == EAGAIN)
				break;
			if (errno)
				victim_die("pthread_create: %m");
		}
		while (n--)
			pthread_join(thread[n], NULL);
		__atomic_add_fetch(&rounds, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static void children_come_and_go(char *program)
{
	while (!told_to_end()) {
		int status, how = (int)(rounds % 3);
		pid_t pid = fork();

		if (pid < 0)
			victim_die("fork: %m");
		if (!pid) {
			if (how == 0)
				execl(program, program, "child", (char *)NULL);
			if (how == 1)
				for (;;)
					k_sleep_ms(1000);
			_exit(0);
		}
		if (how == 1)
			kill(pid, SIGKILL);
		if (waitpid(pid, &status, 0) != pid)
			victim_fail("waiting for a child", "its end", strerror(errno));
		expect_int(how == 1 ? SIGKILL : 0, status, "a child's status");
		rounds++;
	}
}

static void *exec_again(void *argv)
{
	k_sleep_ms(1);
	execv(((char **)argv)[0], argv);
	victim_die("execv: %m");
}

int main(int argc, char **argv)
{
	pthread_t thread;

	if (argc == 2 && !strcmp(argv[1], "child"))
		return 0;
	victim_begin(argc, argv);
	victim_path(go, "go");
	if (!strcmp(victim_arg(), "exec")) {
		if (told_to_end())
			return victim_end();
		victim_write_file("ready", "");
		/* Now from a thread, which takes the leader's place, now from the leader with a thread beside it. */
		if (pthread_create(&thread, NULL, getpid() % 2 ? exec_again : threads_come_and_go, argv))
			victim_die("pthread_create: %m");
		if (getpid() % 2)
			for (;;)
				k_sleep_ms(1000);
		exec_again(argv);
	}
	victim_write_file("ready", "");
	if (pthread_create(&thread, NULL, threads_come_and_go, NULL))
		victim_die("pthread_create: %m");
	children_come_and_go(argv[0]);
	pthread_join(thread, NULL);
	return victim_end();
}
