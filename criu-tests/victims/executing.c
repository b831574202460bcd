// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A process that executes this program anew, over and over, now from a thread, which takes the leader's place, now from the
 * leader with a thread beside it, and has a SIGTRAP pending and blocked all the time, which CRIU cannot dump. It looks for
 * that at the end.
 */
#include "victim.h"

#include <pthread.h>

static void *exec_again(void *argv)
{
	k_sleep_ms(1);
	execv(((char **)argv)[0], argv);
	victim_die("execv: %m");
}

static void *sleep_on(void *unused)
{
	(void)unused;
	for (;;)
		k_sleep_ms(1000);
	return NULL;
}

/* Only once: that would unblock the signal. */
static void begin(int argc, char **argv)
{
	siginfo_t info = info_value(SIGTRAP, 5);

	victim_begin(argc, argv);
	k_setmask(SIGBIT(SIGTRAP));
	k_queue_shared(&info);
	victim_write_file("ready", "");
}

static void end(const char *dir)
{
	static const char result[] = "PASS\n";
	char path[PATH_MAX];
	siginfo_t info;
	int fd;

	snprintf(path, sizeof(path), "%s/out", dir);
	fd = open(path, O_CREAT | O_WRONLY | O_APPEND, 0666);
	if (k_take(SIGBIT(SIGTRAP), &info) != SIGTRAP)
		dprintf(fd, "SIGTRAP is not pending\n");
	else if (write(fd, result, sizeof(result) - 1) != sizeof(result) - 1)
		exit(1);
	exit(0);
}

int main(int argc, char **argv)
{
	char go[PATH_MAX], *next[] = { argv[0], argv[1], NULL, NULL };
	int from_thread = argc > 2 && !strcmp(argv[2], "thread");
	pthread_t thread;

	if (argc < 3)
		begin(argc, argv);
	snprintf(go, sizeof(go), "%s/go", argv[1]);
	if (!access(go, F_OK))
		end(argv[1]);
	next[2] = from_thread ? "leader" : "thread";
	if (pthread_create(&thread, NULL, from_thread ? exec_again : sleep_on, next))
		victim_die("pthread_create: %m");
	if (from_thread)
		sleep_on(NULL);
	exec_again(next);
}
