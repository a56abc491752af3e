-- intent_ref: streaming.embedded
-- Who reads which partition of the log for which consumer group, and how far it has come. The rows are the platform's own:
-- they name positions and processes, and nothing of a tenant's.
--
-- A partition's number is a stable hash of its key modulo `partitions`. That number is part of the key: when a later release
-- splits the log into more partitions, the new rows start from the lowest checkpoint of the former, so nothing is skipped.
CREATE TABLE quantum.stream_members (
    consumer_group text COLLATE "C" NOT NULL,
    member         text COLLATE "C" NOT NULL,
    alive_until    timestamptz NOT NULL,
    PRIMARY KEY (consumer_group, member)
) WITH (fillfactor = 50);

CREATE TABLE quantum.stream_leases (
    consumer_group text COLLATE "C" NOT NULL,
    partitions     integer NOT NULL,
    partition      integer NOT NULL CHECK (partition >= 0 AND partition < partitions),
    owner          text COLLATE "C",
    epoch          bigint NOT NULL DEFAULT 0,      -- grows with every change of owner; a checkpoint under an old one is refused
    checkpoint     bigint NOT NULL,                -- every event of the partition up to here has been handled
    PRIMARY KEY (consumer_group, partitions, partition)
) WITH (fillfactor = 50);

GRANT SELECT, INSERT, UPDATE, DELETE ON quantum.stream_members, quantum.stream_leases TO quantum_platform;

-- One heartbeat of one member: stores its checkpoints, says that it is alive, and gives it what is free up to its share.
-- A partition is free when nobody owns it or its owner's heartbeat has stopped. The share is the member's rank among the
-- living, so that a group at rest has one stable answer. A member that owns more than its share is told so and lets go
-- itself, after the batch in hand: nothing is taken from a living member.
-- A member whose own heartbeat came too late keeps what nobody has taken meanwhile.
CREATE FUNCTION quantum.stream_heartbeat(
    in_group text, in_member text, in_partitions integer, alive_seconds double precision, start_position bigint,
    held integer[], held_epochs bigint[], held_checkpoints bigint[]
) RETURNS TABLE (share integer, partition integer, epoch bigint, checkpoint bigint)
    LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
DECLARE
    living integer;
    rank integer;
    own_share integer;
BEGIN
    PERFORM pg_advisory_xact_lock(20825, hashtext(in_group));

    UPDATE quantum.stream_leases AS lease SET checkpoint = greatest(lease.checkpoint, mine.checkpoint)
      FROM unnest(held, held_epochs, held_checkpoints) AS mine (partition, epoch, checkpoint)
     WHERE lease.consumer_group = in_group AND lease.partitions = in_partitions AND lease.partition = mine.partition
       AND lease.owner = in_member AND lease.epoch = mine.epoch AND lease.checkpoint < mine.checkpoint;

    INSERT INTO quantum.stream_members AS known (consumer_group, member, alive_until)
    VALUES (in_group, in_member, clock_timestamp() + make_interval(secs => alive_seconds))
        ON CONFLICT (consumer_group, member) DO UPDATE SET alive_until = excluded.alive_until;
    DELETE FROM quantum.stream_members AS dead
     WHERE dead.consumer_group = in_group AND dead.alive_until < clock_timestamp();

    IF (SELECT count(*) FROM quantum.stream_leases AS lease
         WHERE lease.consumer_group = in_group AND lease.partitions = in_partitions) < in_partitions THEN
        INSERT INTO quantum.stream_leases (consumer_group, partitions, partition, checkpoint)
        SELECT in_group, in_partitions, number,
               coalesce((SELECT max(former.lowest)
                           FROM (SELECT min(lease.checkpoint) AS lowest FROM quantum.stream_leases AS lease
                                  WHERE lease.consumer_group = in_group GROUP BY lease.partitions) AS former), start_position)
          FROM generate_series(0, in_partitions - 1) AS number
            ON CONFLICT DO NOTHING;
    END IF;

    SELECT count(*), count(*) FILTER (WHERE other.member < in_member) INTO living, rank
      FROM quantum.stream_members AS other WHERE other.consumer_group = in_group;
    own_share := in_partitions / living + CASE WHEN rank < in_partitions % living THEN 1 ELSE 0 END;

    UPDATE quantum.stream_leases AS lease SET owner = in_member, epoch = lease.epoch + 1
      FROM (SELECT candidate.partition FROM quantum.stream_leases AS candidate
             WHERE candidate.consumer_group = in_group AND candidate.partitions = in_partitions
               AND NOT EXISTS (SELECT FROM quantum.stream_members AS owner
                                WHERE owner.consumer_group = in_group AND owner.member = candidate.owner)
             ORDER BY candidate.partition
             LIMIT greatest(0, own_share - (SELECT count(*) FROM quantum.stream_leases AS mine
                                             WHERE mine.consumer_group = in_group AND mine.partitions = in_partitions
                                               AND mine.owner = in_member))) AS free
     WHERE lease.consumer_group = in_group AND lease.partitions = in_partitions AND lease.partition = free.partition;

    RETURN QUERY
    SELECT own_share, lease.partition, lease.epoch, lease.checkpoint
      FROM (SELECT 1) AS always
      LEFT JOIN quantum.stream_leases AS lease
        ON lease.consumer_group = in_group AND lease.partitions = in_partitions AND lease.owner = in_member;
END
$$;

-- Stores the checkpoints of partitions and lets them go. With `leaving`, the member is gone too, at once.
CREATE FUNCTION quantum.stream_release(
    in_group text, in_member text, in_partitions integer, leaving boolean,
    released integer[], released_epochs bigint[], released_checkpoints bigint[]
) RETURNS void
    LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(20825, hashtext(in_group));
    UPDATE quantum.stream_leases AS lease
       SET owner = NULL, checkpoint = greatest(lease.checkpoint, mine.checkpoint)
      FROM unnest(released, released_epochs, released_checkpoints) AS mine (partition, epoch, checkpoint)
     WHERE lease.consumer_group = in_group AND lease.partitions = in_partitions AND lease.partition = mine.partition
       AND lease.owner = in_member AND lease.epoch = mine.epoch;
    IF leaving THEN
        DELETE FROM quantum.stream_members AS gone WHERE gone.consumer_group = in_group AND gone.member = in_member;
    END IF;
END
$$;
REVOKE ALL ON FUNCTION quantum.stream_heartbeat, quantum.stream_release FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.stream_heartbeat, quantum.stream_release TO quantum_platform;
