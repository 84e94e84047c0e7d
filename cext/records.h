/* Records of flows that ended, of refusals and of followed requests, made while there is a subscriber.
 *
 * A bounded ring for each kind, so that a flood of one hides none of another. A record that finds no room is dropped
 * and counted. All functions may be called from any thread; none blocks for longer than a copy of the batch takes.
 */
#ifndef PYINTERCEPTOR_RECORDS_H
#define PYINTERCEPTOR_RECORDS_H

#include "policy.h"

/* A flow that C kept to its end makes one record: a REFUSAL if that is why it ended, else a FLOW. A flow that is
 * handed off makes none: Python makes its records. REQUEST: a request of a followed flow, once its response has
 * ended or none came. */
enum record_kind { RECORD_FLOW = 1, RECORD_REFUSAL = 2, RECORD_REQUEST = 4 };

#define RECORD_METHOD_MAX 32
#define RECORD_TARGET_MAX 256

struct relay_record {
	uint32_t kind;                /* enum record_kind */
	uint32_t container;           /* its number */
	uint64_t flow;                /* its number; 0: refused before it got one */
	uint32_t protocol;            /* enum protocol */
	uint32_t cause;               /* enum end_cause */
	struct decision decision;
	uint32_t status;              /* REQUEST: of the response; 0: none came */
	uint32_t reserved;
	struct endpoint client;
	struct endpoint destination;  /* as the container dialled it */
	uint64_t sent, received;      /* bytes from and to the container; of a REQUEST its own, heads and bodies */
	double began, judged, connected, answered, ended; /* seconds, CLOCK_MONOTONIC; 0: never */
	char method[RECORD_METHOD_MAX];  /* NUL-terminated, cut */
	char host[HOST_MAX + 1];         /* as the client wrote it, so any byte but NUL may stand in it */
	char target[RECORD_TARGET_MAX];  /* NUL-terminated, cut */
};

struct relay_dropped {            /* records that found no room, ever */
	uint64_t flows, refusals, requests;
};

struct relay;

/* From now on records of these kinds (bits of enum record_kind; 0: none) are made. Those that were made stay to be
 * taken. 0 or -ENOMEM. */
int relay_subscribe(struct relay *relay, uint32_t kinds);

/* Readable (eventfd) while records wait; read it before the records are taken. */
int relay_record_fd(struct relay *relay);

/* Takes up to `count` records, oldest end first; returns how many. */
uint32_t relay_take_records(struct relay *relay, struct relay_record *out, uint32_t count);

void relay_count_dropped(struct relay *relay, struct relay_dropped *out);

/* ---- for the relay's threads ---- */

struct records;

struct records *records_new(void); /* NULL with errno */
void records_free(struct records *records);

/* 1 if there is a subscriber to this kind: ask before a record is put together. */
int record_is_wanted(const struct relay *relay, enum record_kind kind);

/* Copies the record into its ring; without a subscriber it does nothing. */
void record_make(struct relay *relay, const struct relay_record *record);

#endif
