/* SPDX-License-Identifier: Apache-2.0
 *
 * Resolves names at once, one thread each, as a program of musl does: resolve NAME... Prints for each its name, its first
 * address or the error, and the time that it took, in milliseconds. Linked statically, with musl.
 */
#include <arpa/inet.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

#define NAMES_MAX 256

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e3 + (double)time.tv_nsec * 1e-6;
}

static void *resolve(void *name)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found = NULL;
	char text[NI_MAXHOST];
	double began = now();
	int error = getaddrinfo(name, "80", &hints, &found);
	double spent = now() - began;
	if (!error)
		getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST);
	printf("%s\t%s\t%.0f\n", (const char *)name, error ? gai_strerror(error) : text, spent);
	return NULL;
}

int main(int count, char **names)
{
	pthread_t threads[NAMES_MAX];
	for (int i = 1; i < count && i < NAMES_MAX; i++)
		pthread_create(&threads[i], NULL, resolve, names[i]);
	for (int i = 1; i < count && i < NAMES_MAX; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
