// SPDX-License-Identifier: GPL-2.0-or-later
/* As many MiB of resident memory as the argument says. It waits until somebody ends it. For measuring. */
#include "victim.h"

int main(int argc, char **argv)
{
	size_t size;
	char *memory;

	victim_begin(argc, argv);
	size = (size_t)atoi(victim_arg()) << 20;
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!size || memory == MAP_FAILED)
		victim_die("the argument is a number of MiB: %m");
	for (size_t at = 0; at < size; at += 4096)
		memory[at] = 1;
	victim_write_file("ready", "");
	for (;;)
		pause();
}
