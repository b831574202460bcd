// SPDX-License-Identifier: GPL-2.0-or-later
/* Holds a file lock: CRIU dumps it only with --file-locks, and says so late, when all signal state is captured. */
#include "victim.h"

#include <sys/file.h>

int main(int argc, char **argv)
{
	char path[PATH_MAX];
	siginfo_t info;
	int fd;

	victim_begin(argc, argv);
	k_setmask(ALL_SIGNALS);
	victim_path(path, "lock");
	fd = open(path, O_RDWR | O_CREAT, 0600);
	if (fd < 0 || flock(fd, LOCK_EX))
		victim_die("%s: %m", path);
	info = info_value(SIGRTMIN + 1, 5);
	k_queue_shared(&info);
	k_tgkill(k_gettid(), SIGUSR1);
	victim_checkpoint();
	victim_drain();
	return victim_end();
}
