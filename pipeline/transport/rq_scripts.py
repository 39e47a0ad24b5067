"""The Lua scripts of the Redis transport: each is one atomic step on RQ's keys and on ours.

    rq:queues                              set, RQ's: the key of every queue
    rq:queue:QUEUE                         list, RQ's: ids of ready jobs, the head is the oldest
    rq:job:ID                              hash, RQ's: the job, and two fields of ours
        penstock_published                 seconds by Redis's clock: nobody's clocks are compared
        penstock_again                    there, when a consumer may have received it already
    penstock:inflight:QUEUE:CONSUMER       list: ids received and not acknowledged, oldest first
    penstock:consumers:QUEUE               set: the consumers that may hold such a list
    penstock:alive:CONSUMER                string that expires: the consumer's heartbeat

RQ's `:intermediate` list and its registries are left alone: RQ's own sweeps would fail what lies there.
"""

from __future__ import annotations

QUEUES_KEY = "rq:queues"


def queue_key(queue: str) -> str:
    """RQ's list of ready jobs."""
    return f"rq:queue:{queue}"


def inflight_key(queue: str, consumer: str) -> str:
    """What `consumer` has received from `queue` and not acknowledged."""
    return f"penstock:inflight:{queue}:{consumer}"


def consumers_key(queue: str) -> str:
    """Who may hold messages of `queue`."""
    return f"penstock:consumers:{queue}"


def alive_key(consumer: str) -> str:
    """The consumer's heartbeat."""
    return f"penstock:alive:{consumer}"


PUBLISH = """
-- KEYS: queues, queue. ARGV: queue's name, timestamp, timeout, failure_ttl, then id, data, description of each.
local time = redis.call('TIME')
local published = time[1] .. '.' .. string.format('%06d', time[2])
redis.call('SADD', KEYS[1], KEYS[2])
for i = 5, #ARGV, 3 do
    redis.call('HSET', 'rq:job:' .. ARGV[i],
        'created_at', ARGV[2], 'enqueued_at', ARGV[2], 'data', ARGV[i + 1], 'description', ARGV[i + 2],
        'origin', ARGV[1], 'status', 'queued', 'timeout', ARGV[3], 'result_ttl', 0, 'failure_ttl', ARGV[4],
        'penstock_published', published)
    redis.call('RPUSH', KEYS[2], ARGV[i])
end
return (#ARGV - 4) / 3
"""

TAKE = """
-- KEYS: queue, inflight, alive, consumers. ARGV: consumer, heartbeat's life in ms, most, an id moved already or ''.
-- Returns three numbers for each message: length of id, length of data, 1 where it comes again; and all of the ids
-- and data in one string, since a client parses one long value many times faster than a thousand short ones.
redis.call('SET', KEYS[3], 1, 'PX', ARGV[2])
redis.call('SADD', KEYS[4], ARGV[1])
local most, taken = tonumber(ARGV[3]), 0
local numbers, parts = {}, {}
local function deliver(ids)
    for _, id in ipairs(ids) do
        local job = redis.call('HMGET', 'rq:job:' .. id, 'data', 'penstock_again')
        if job[1] then
            taken = taken + 1
            numbers[taken] = #id .. ' ' .. #job[1] .. (job[2] and ' 1' or ' 0')
            parts[2 * taken - 1], parts[2 * taken] = id, job[1]
        else
            redis.call('LREM', KEYS[2], -1, id)
        end
    end
end
-- The id moved already may have been taken over by somebody else since, if we slept long enough.
if ARGV[4] ~= '' and redis.call('LPOS', KEYS[2], ARGV[4]) then
    deliver({ARGV[4]})
end
while taken < most do
    local ids = redis.call('LPOP', KEYS[1], math.min(most - taken, 1000))
    if not ids then break end
    redis.call('RPUSH', KEYS[2], unpack(ids))
    deliver(ids)
end
return {table.concat(numbers, ' '), table.concat(parts)}
"""

ACKNOWLEDGE = """
-- KEYS: inflight. ARGV: ids, 1,000 at the most. Only what is still in our own list goes: a late acknowledgement
-- removes nothing. Mostly they are the list's head, in its order.
local jobs = {}
local head = redis.call('LRANGE', KEYS[1], 0, #ARGV - 1)
local same = #head == #ARGV
for i = 1, #ARGV do
    if not same or head[i] ~= ARGV[i] then same = false break end
    jobs[i] = 'rq:job:' .. ARGV[i]
end
if same then
    redis.call('LTRIM', KEYS[1], #ARGV, -1)
else
    jobs = {}
    for _, id in ipairs(ARGV) do
        if redis.call('LREM', KEYS[1], 1, id) > 0 then
            jobs[#jobs + 1] = 'rq:job:' .. id
        end
    end
end
if #jobs > 0 then
    redis.call('DEL', unpack(jobs))
end
"""

_COMES_AGAIN = """
local function comes_again(id)
    if redis.call('EXISTS', 'rq:job:' .. id) == 1 then
        redis.call('HSET', 'rq:job:' .. id, 'penstock_again', 1)
    end
end
"""

GIVE_BACK = (
    _COMES_AGAIN
    + """
-- KEYS: inflight, queue. ARGV: ids to keep. The others go to the queue's head, in their order.
local keep = {}
for _, id in ipairs(ARGV) do keep[id] = true end
local ids = redis.call('LRANGE', KEYS[1], 0, -1)
for i = #ids, 1, -1 do
    if not keep[ids[i]] then
        redis.call('LREM', KEYS[1], -1, ids[i])
        redis.call('LPUSH', KEYS[2], ids[i])
        comes_again(ids[i])
    end
end
"""
)

TAKE_OVER = (
    _COMES_AGAIN
    + """
-- KEYS: queue, consumers, alive. ARGV: heartbeat's life in ms, prefix of inflight lists, prefix of heartbeats.
-- Whoever asks is alive, even where its own heartbeat has lapsed.
redis.call('SET', KEYS[3], 1, 'PX', ARGV[1])
for _, consumer in ipairs(redis.call('SMEMBERS', KEYS[2])) do
    if redis.call('EXISTS', ARGV[3] .. consumer) == 0 then
        while true do
            local id = redis.call('LMOVE', ARGV[2] .. consumer, KEYS[1], 'RIGHT', 'LEFT')
            if not id then break end
            comes_again(id)
        end
        redis.call('SREM', KEYS[2], consumer)
    end
end
"""
)

DEPTH = """
-- KEYS: queue, consumers. ARGV: prefix of inflight lists. Returns ready, in flight, age of the head or ''.
local held = 0
for _, consumer in ipairs(redis.call('SMEMBERS', KEYS[2])) do
    held = held + redis.call('LLEN', ARGV[1] .. consumer)
end
local age = ''
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, 9)) do
    local published = redis.call('HGET', 'rq:job:' .. id, 'penstock_published')
    if published then
        local time = redis.call('TIME')
        age = string.format('%.6f', time[1] + time[2] / 1000000 - published)
        break
    end
end
return {redis.call('LLEN', KEYS[1]), held, age}
"""

PURGE = """
-- KEYS: queue. ARGV: most ids at a time. Returns how many ids went, and how many of them were messages.
local ids = redis.call('LPOP', KEYS[1], ARGV[1])
local jobs = 0
for _, id in ipairs(ids or {}) do
    jobs = jobs + redis.call('DEL', 'rq:job:' .. id)
end
return {#(ids or {}), jobs}
"""
