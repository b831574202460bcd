// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The leader waits in poll(2), with a timeout that does not end meanwhile, until the test lets it go on: EINTR is what it must
 * not see, however often it has been stopped.
 */
#include "victim.h"

#include <poll.h>

#define TIMEOUT_MS 600000

static int ends[2];

static void release(int index)
{
	char path[PATH_MAX];

	(void)index;
	victim_settle(-1);
	victim_write_file("ready", "");
	victim_path(path, "go");
	while (access(path, F_OK))
		k_sleep_ms(5);
	if (write(ends[1], "", 1) != 1)
		victim_die("write: %s", strerror(errno));
}

int main(int argc, char **argv)
{
	struct pollfd fd = { .events = POLLIN };
	long result;

	victim_begin(argc, argv);
	if (pipe(ends))
		victim_die("pipe: %s", strerror(errno));
	fd.fd = ends[0];
	victim_thread(release, 0);
	result = poll(&fd, 1, TIMEOUT_MS);
	expect_int(1, result, "poll (errno %d)", errno);
	return victim_end();
}
