"""Asks one server, in a container: dig.py SERVER udp|tcp NAME TYPE; prints the code and the values of the records."""

import sys

import dns.message
import dns.query
import dns.rcode

server, transport, name, kind = sys.argv[1:]
ask = {"udp": dns.query.udp, "tcp": dns.query.tcp}[transport]
answer = ask(dns.message.make_query(name, kind), server, timeout=10)
print(dns.rcode.to_text(answer.rcode()), *(record.to_text() for records in answer.answer for record in records))
