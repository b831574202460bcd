// SPDX-License-Identifier: GPL-2.0-or-later
/* Its first thread ends when there is a file `step1`; the other one ends the process when there is a file `step2`. */
#include "victim.h"

#include <pthread.h>

static void wait_for(const char *name)
{
	char path[PATH_MAX];

	victim_path(path, name);
	while (access(path, F_OK))
		k_sleep_ms(2);
}

static void *other(void *arg)
{
	(void)arg;
	wait_for("step2");
	syscall(SYS_exit_group, 7);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	victim_begin(argc, argv);
	if (pthread_create(&thread, NULL, other, NULL))
		victim_die("pthread_create: %m");
	victim_write_file("ready", "");
	wait_for("step1");
	syscall(SYS_exit, 0);
	return 0;
}
