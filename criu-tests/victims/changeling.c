// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Two processes. When the file `slow` is there, the first one is in vfork(2), so that it takes its time to stop for a
 * tracer; and as soon as it is traced, the second one executes another program, and lets it go.
 */
#include "victim.h"

#include <sys/wait.h>

static void wait_for(const char *name)
{
	char path[PATH_MAX];

	victim_path(path, name);
	while (access(path, F_OK))
		k_sleep_ms(2);
}

static int is_traced(pid_t pid)
{
	char path[64], line[256];
	int tracer = 0;
	FILE *status;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	status = fopen(path, "r");
	while (status && fgets(line, sizeof(line), status))
		if (sscanf(line, "TracerPid: %d", &tracer) == 1)
			break;
	if (status)
		fclose(status);
	return tracer != 0;
}

static void change(pid_t first)
{
	wait_for("slow");
	while (!is_traced(first))
		k_sleep_ms(1);
	if (!fork()) {
		k_sleep_ms(300);
		victim_write_file("changed", "");
		_exit(0);
	}
	execl("/bin/sleep", "sleep", "1000", NULL);
	victim_die("execl: %m");
}

int main(int argc, char **argv)
{
	pid_t first = getpid();
	pid_t second;
	char text[32];

	victim_begin(argc, argv);
	signal(SIGUSR1, SIG_IGN);
	second = fork();
	if (second < 0)
		victim_die("fork: %m");
	if (!second)
		change(first);
	snprintf(text, sizeof(text), "%d", second);
	victim_write_file("second", text);
	victim_write_file("ready", "");
	wait_for("slow");
	if (!vfork()) {
		wait_for("changed");
		_exit(0);
	}
	for (;;)
		pause();
}
