// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Adopts what its descendants leave behind, as the shims and monitors of container engines do: runs its second argument by
 * sh(1), and reaps children until it is killed.
 */
#include "victim.h"

#include <sys/prctl.h>
#include <sys/wait.h>

int main(int argc, char **argv)
{
	pid_t pid;

	if (argc != 2 || prctl(PR_SET_CHILD_SUBREAPER, 1))
		victim_die("PR_SET_CHILD_SUBREAPER: %m");
	pid = fork();
	if (!pid) {
		execl("/bin/sh", "sh", "-c", argv[1], (char *)NULL);
		victim_die("execl: %m");
	}
	if (pid < 0)
		victim_die("fork: %m");
	for (;;) {
		if (wait(NULL) < 0)
			pause();
	}
}
