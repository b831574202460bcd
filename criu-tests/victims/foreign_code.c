// SPDX-License-Identifier: GPL-2.0-or-later
/* Maps the file that its argument names as code, and never touches it. */
#include "victim.h"

int main(int argc, char **argv)
{
	const char *name;
	int fd;

	victim_begin(argc, argv);
	name = victim_arg();
	fd = open(name, O_RDONLY);
	if (fd < 0 || mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) == MAP_FAILED)
		victim_die("%s: %m", name);
	close(fd);
	victim_checkpoint();
	return victim_end();
}
