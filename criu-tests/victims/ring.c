// SPDX-License-Identifier: GPL-2.0-or-later
/* io_uring with a thread of the kernel's that polls: it is listed with the program's own. */
#include "victim.h"

#include <linux/io_uring.h>

int main(int argc, char **argv)
{
	struct io_uring_params params = {.flags = IORING_SETUP_SQPOLL, .sq_thread_idle = 100000};
	siginfo_t info = info_value(SIGRTMIN + 1, 7);

	victim_begin(argc, argv);
	if (syscall(SYS_io_uring_setup, 8, &params) < 0)
		victim_die("io_uring_setup: %m");
	k_setmask(SIGBIT(SIGRTMIN + 1));
	k_queue_shared(&info);
	victim_checkpoint();
	victim_drain();
	return victim_end();
}
