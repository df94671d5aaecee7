/* Makes system calls as told and prints what each returned, the error as a negative number:
 *
 *     call [int80:|x32:]NUMBER[,ARGUMENT]... ...
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long enter(const char *how, long number, long *a)
{
#if defined(__x86_64__)
	long result;
	if (how && strcmp(how, "int80") == 0) {
		__asm__ volatile("int $0x80" : "=a"(result)
				 : "a"(number), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4])
				 : "memory", "r8", "r9", "r10", "r11");
		return (int)result;
	}
	if (how)
		number |= 0x40000000;
	register long r10 __asm__("r10") = a[3];
	register long r8 __asm__("r8") = a[4];
	register long r9 __asm__("r9") = a[5];
	__asm__ volatile("syscall" : "=a"(result)
			 : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
			 : "memory", "rcx", "r11");
	return result;
#elif defined(__aarch64__)
	(void)how;
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a[0];
	register long x1 __asm__("x1") = a[1];
	register long x2 __asm__("x2") = a[2];
	register long x3 __asm__("x3") = a[3];
	register long x4 __asm__("x4") = a[4];
	register long x5 __asm__("x5") = a[5];
	__asm__ volatile("svc 0" : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
#endif
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		char *how = NULL, *text = argv[i], *colon = strchr(text, ':');
		long args[6] = { 0 };
		if (colon) {
			how = text;
			*colon = 0;
			text = colon + 1;
		}
		long number = strtol(text, &text, 0);
		for (int n = 0; n < 6 && *text == ','; n++)
			args[n] = strtol(text + 1, &text, 0);
		printf("%ld\n", enter(how, number, args));
		fflush(stdout);
	}
	return 0;
}
