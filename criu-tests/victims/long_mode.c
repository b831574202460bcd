// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A 32-bit program that executes 64-bit code and makes no system call: so does a program of the x32 ABI, which a kernel
 * without CONFIG_X86_X32_ABI does not start. It runs until somebody ends it.
 */
#include "victim.h"

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	victim_write_file("ready", "");
#ifdef __i386__
	/* 0x33 is __USER_CS (asm/segment.h). */
	__asm__ volatile("ljmp $0x33, $1f\n\t.code64\n1:\tpause\n\tjmp 1b\n\t.code32" : : : "memory");
#endif
	victim_die("this is a 32-bit program's victim");
}
