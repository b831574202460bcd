// SPDX-License-Identifier: GPL-2.0-or-later
/* A thread, whose id is in the file `thread`, that ends when there is a file `end`. The leader stays. */
#include "victim.h"

#include <pthread.h>

static void *thread(void *unused)
{
	char path[PATH_MAX], id[16];

	(void)unused;
	snprintf(id, sizeof(id), "%d", k_gettid());
	victim_write_file("thread", id);
	victim_path(path, "end");
	while (access(path, F_OK))
		k_sleep_ms(1);
	return NULL;
}

int main(int argc, char **argv)
{
	char path[PATH_MAX];
	pthread_t id;

	victim_begin(argc, argv);
	errno = pthread_create(&id, NULL, thread, NULL);
	if (errno)
		victim_die("pthread_create: %m");
	victim_path(path, "thread");
	while (access(path, F_OK))
		k_sleep_ms(1);
	victim_write_file("ready", "");
	victim_path(path, "go");
	while (access(path, F_OK))
		k_sleep_ms(1);
	return victim_end();
}
