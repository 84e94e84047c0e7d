/* SPDX-License-Identifier: Apache-2.0
 *
 * Collects the record of a followed request. Owns the exchange; exchange.h names the callers.
 */
#include <stdlib.h>
#include <string.h>

#include "exchange.h"

struct exchange {
	struct relay_record record; /* `sent` and `received`: the flow's counts before the request */
};

/* Copies the text, truncated to `room` with its NUL. */
static void cut(char *out, size_t room, const uint8_t *text, size_t length)
{
	size_t some = length < room ? length : room - 1;
	memcpy(out, text, some);
	out[some] = 0;
}

struct exchange *exchange_begin(const struct relay_record *flow, const uint8_t *head, const struct frame *frame)
{
	struct exchange *exchange = malloc(sizeof *exchange);
	if (!exchange)
		return NULL;
	struct relay_record *record = &exchange->record;
	*record = *flow;
	record->kind = RECORD_REQUEST;
	cut(record->method, sizeof record->method, head, frame->method_length);
	cut(record->target, sizeof record->target, head + frame->target_at, frame->target_length);
	cut(record->host, sizeof record->host, (const uint8_t *)frame->host, frame->host_length);
	return exchange;
}

void exchange_answered(struct exchange *exchange, uint32_t status, double now)
{
	if (!exchange || exchange->record.status)
		return;
	exchange->record.status = status;
	exchange->record.answered = now;
}

void exchange_end(struct exchange *exchange, struct relay *relay, uint64_t sent, uint64_t received, double now)
{
	if (!exchange)
		return;
	exchange->record.sent = sent - exchange->record.sent;
	exchange->record.received = received - exchange->record.received;
	exchange->record.ended = now;
	record_make(relay, &exchange->record);
	free(exchange);
}

void exchange_drop(struct exchange *exchange)
{
	free(exchange);
}
