"""What is backed up: pgbench's tables, and documents that compress about 3:1. The same content every time."""

from .machine import Failed, say, tree_bytes

# With their indexes.
PGBENCH_BYTES_PER_SCALE = 15.7e6
DOCUMENT_BYTES = 1662.0

# Documents as a shop might keep them: names that repeat, words that nearly do, numbers and keys that do not. All comes
# from hashes of the document's number. They stay below 2 kB, from where PostgreSQL would compress them itself.
DOCUMENTS = """
create table documents (id bigint primary key, body jsonb not null);
create function word(seed text) returns text language sql immutable parallel safe as $$
    select (array['copper','harbour','lantern','oak','pulley','anchor','canvas','beacon','rudder','timber','compass',
        'winch','ballast','mooring','galley','hatch','keel','mast','oar','pennant','quay','rigging','sextant',
        'tiller'])[1 + (('x' || left(md5(seed), 7))::bit(28)::int % 24)] $$;
create function key(seed text) returns text language sql immutable parallel safe as $$
    select encode(sha256(seed::bytea), 'base64') $$;
insert into documents
select id, jsonb_build_object(
    'id', id, 'kind', 'order', 'device', encode(sha512(('device' || id)::bytea), 'base64'),
    'customer', jsonb_build_object('key', key('customer' || id), 'name', word('a' || id) || ' ' || word('b' || id),
        'email', word('a' || id) || '.' || word('b' || id) || id % 977 || '@example.org', 'newsletter', id % 3 = 0),
    'placed_at', timestamp '2024-01-01' + id * interval '1.7 second',
    'payment', jsonb_build_object('method', 'card', 'token', key('token' || id), 'currency', 'EUR', 'captured', true,
        'signature', encode(sha512(('signature' || id)::bytea), 'base64')),
    'lines', (select jsonb_agg(jsonb_build_object(
            'position', line, 'sku', left(md5(id || '-' || line), 14), 'quantity', 1 + (id + line) % 7,
            'name', word(id || 'c' || line) || ' ' || word(id || 'd' || line) || ' ' || word(id || 'e' || line),
            'price_cents', (id * 7919 + line * 104729) % 99991, 'warehouse', 'north-' || (id + line) % 12,
            'tracking', key(line || ':' || id)))
        from generate_series(1, 4) line))
from generate_series(1::bigint, {count}) id;
analyze documents;
"""


class Database:
    """The content of a server."""

    def __init__(self, server, size_gb, documents_share):
        self.server = server
        self.scale = max(1, round(size_gb * 1e9 * (1 - documents_share) / PGBENCH_BYTES_PER_SCALE))
        self.documents = round(size_gb * 1e9 * documents_share / DOCUMENT_BYTES)

    def fill(self):
        server = self.server
        say(f"filling it: pgbench at scale {self.scale}, {self.documents} documents")
        server.processes.run([server.bin / "pgbench", "-i", "-q", "-s", self.scale], "pgbench", server.environment())
        server.sql(DOCUMENTS.format(count=self.documents))
        # Hint bits and freezing now, not while a tool is measured.
        server.sql("vacuum (freeze, analyze)")
        server.checkpoint()

    def description(self):
        """For the table's head."""
        sizes = self.server.sql("select sum(pg_total_relation_size(c.oid)) filter (where relname ~ '^pgbench'), "
                                "sum(pg_total_relation_size(c.oid)) filter (where relname = 'documents'), "
                                "sum(pg_total_relation_size(c.oid)) filter (where relkind = 'r') "
                                "from pg_class c where relkind = 'r'").split("|")
        return {
            "pgbench_bytes": int(sizes[0]),
            "documents_bytes": int(sizes[1] or 0),
            "data_directory_bytes": self.bytes(),
        }

    def bytes(self):
        """What a backup has to copy: the data directory without WAL."""
        return tree_bytes(self.server.data) - tree_bytes(self.server.data / "pg_wal")

    def fingerprint(self, server):
        """What must be the same in a restored copy."""
        return server.sql("select (select count(*) from pgbench_accounts),"
                          " (select sum(abalance) from pgbench_accounts),"
                          " (select count(*) from pgbench_history), (select count(*) from documents),"
                          " (select md5(string_agg(body ->> 'id', ',' order by id)) from documents where id % 97 = 0)")

    def change_a_little(self, transactions):
        """A little work between two backups, the same for each tool."""
        server = self.server
        server.processes.run([server.bin / "pgbench", "-n", "-c", "2", "-t", transactions // 2, "--random-seed=1"],
                             "pgbench", server.environment())

    def write_wal(self, wanted_bytes):
        """pgbench's load until so much WAL is written since the last checkpoint."""
        server = self.server
        start = server.lsn("pg_current_wal_insert_lsn()")
        environment = server.environment() | {"PGOPTIONS": "-c synchronous_commit=off"}
        for _ in range(1000):
            load = [server.bin / "pgbench", "-n", "-c", "4", "-j", "2", "-T", "2"]
            server.processes.run(load, "pgbench", environment)
            if server.lsn("pg_current_wal_insert_lsn()") - start >= wanted_bytes:
                return
        raise Failed("pgbench writes too little WAL")
