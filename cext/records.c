/* SPDX-License-Identifier: Apache-2.0
 *
 * The rings of records. Owns the rings and their eventfd; records.h names the callers.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "events.h"
#include "records.h"
#include "state.h"

#define KINDS 3

/* Ring sizes in records of about 700 bytes. 4096 requests are four times the 1000 that 20 ms bring at 50 000 a
 * second. */
static const uint32_t rooms[KINDS] = {2048, 1024, 4096};

struct ring {
	struct relay_record *records; /* NULL before the first subscription */
	uint32_t first, count;
	uint64_t dropped;
};

struct records {
	_Atomic uint32_t kinds; /* the kinds with a subscriber */
	int event_fd;
	pthread_mutex_t lock; /* guards the rings */
	struct ring rings[KINDS];
};

static uint32_t ring_of(uint32_t kind)
{
	return kind == RECORD_FLOW ? 0 : kind == RECORD_REFUSAL ? 1 : 2;
}

struct records *records_new(void)
{
	struct records *records = calloc(1, sizeof *records);
	if (!records)
		return NULL;
	records->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (records->event_fd < 0) {
		int error = errno;
		free(records);
		errno = error;
		return NULL;
	}
	pthread_mutex_init(&records->lock, NULL);
	return records;
}

void records_free(struct records *records)
{
	if (!records)
		return;
	for (uint32_t i = 0; i < KINDS; i++)
		free(records->rings[i].records);
	close(records->event_fd);
	pthread_mutex_destroy(&records->lock);
	free(records);
}

int relay_subscribe(struct relay *relay, uint32_t kinds)
{
	struct records *records = relay->records;
	int error = 0;
	pthread_mutex_lock(&records->lock);
	for (uint32_t i = 0; i < KINDS && !error; i++) {
		struct ring *ring = &records->rings[i];
		if ((kinds & 1u << i) && !ring->records && !(ring->records = calloc(rooms[i], sizeof *ring->records)))
			error = -ENOMEM;
	}
	if (!error)
		atomic_store(&records->kinds, kinds);
	pthread_mutex_unlock(&records->lock);
	return error;
}

int record_is_wanted(const struct relay *relay, enum record_kind kind)
{
	return (atomic_load_explicit(&relay->records->kinds, memory_order_relaxed) & kind) != 0;
}

/* Returns 1 if all rings were empty before: then the eventfd must be signalled. */
static int put(struct records *records, uint32_t which, const struct relay_record *record)
{
	struct ring *ring = &records->rings[which];
	int was_empty = 1;
	for (uint32_t i = 0; i < KINDS; i++)
		was_empty &= records->rings[i].count == 0;
	if (!ring->records)
		return 0;
	if (ring->count == rooms[which]) {
		ring->dropped++;
		return 0;
	}
	ring->records[(ring->first + ring->count++) % rooms[which]] = *record;
	return was_empty;
}

void record_make(struct relay *relay, const struct relay_record *record)
{
	struct records *records = relay->records;
	if (!record_is_wanted(relay, record->kind))
		return;
	pthread_mutex_lock(&records->lock);
	int is_first = put(records, ring_of(record->kind), record);
	pthread_mutex_unlock(&records->lock);
	if (is_first)
		signal_fd(records->event_fd);
}

/* Returns the ring whose first record has the earliest end, or NULL if all rings are empty. */
static struct ring *oldest(struct records *records, uint32_t *room)
{
	struct ring *found = NULL;
	for (uint32_t i = 0; i < KINDS; i++) {
		struct ring *ring = &records->rings[i];
		if (ring->count && (!found || ring->records[ring->first].ended < found->records[found->first].ended)) {
			found = ring;
			*room = rooms[i];
		}
	}
	return found;
}

uint32_t relay_take_records(struct relay *relay, struct relay_record *out, uint32_t count)
{
	struct records *records = relay->records;
	struct ring *ring;
	uint32_t taken = 0, room = 0;
	pthread_mutex_lock(&records->lock);
	for (; taken < count && (ring = oldest(records, &room)); taken++) {
		out[taken] = ring->records[ring->first];
		ring->first = (ring->first + 1) % room;
		ring->count--;
	}
	pthread_mutex_unlock(&records->lock);
	return taken;
}

int relay_record_fd(struct relay *relay)
{
	return relay->records->event_fd;
}

void relay_count_dropped(struct relay *relay, struct relay_dropped *out)
{
	struct records *records = relay->records;
	pthread_mutex_lock(&records->lock);
	*out = (struct relay_dropped){records->rings[0].dropped, records->rings[1].dropped, records->rings[2].dropped};
	pthread_mutex_unlock(&records->lock);
}
