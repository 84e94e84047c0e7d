/* The control of ThreadSanitizer's run: two threads that write to one place without a lock. Called by sanitized.py. */
#include <pthread.h>

static int shared;

static void *bump(void *unused)
{
	for (int i = 0; i < 100000; i++)
		shared++;
	return unused;
}

void race(void)
{
	pthread_t one, other;
	if (pthread_create(&one, NULL, bump, NULL))
		return;
	if (!pthread_create(&other, NULL, bump, NULL))
		pthread_join(other, NULL);
	pthread_join(one, NULL);
}
