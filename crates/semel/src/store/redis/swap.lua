-- One swap. KEYS: the record. ARGV: now ('' asks the server), the stamp expected ('' for none), room ('none' where the
-- server has none), the stamp to put ('' for none), and of what is put: retention, trims, phase, length of the whole
-- record, the whole record and what is left of it; last of all, until when it may run, by the server's clock. Answers
-- 'done', 'absent', 'full', or { age, stamp, record }.

local key, expect, stamp = KEYS[1], ARGV[2], ARGV[4]
local server_ms = server_now()
-- Whoever asked has given up, and may have undone what another copy of this did: a claim now would be nobody's.
if server_ms > tonumber(ARGV[#ARGV]) then
  return redis.error_reply('LATE it comes after its time')
end
local now = ARGV[1] == '' and server_ms or tonumber(ARGV[1])
local head = head_at(key)
if head == false then
  return damaged()
end
local age = head and math.max(0, now - head.written)
-- The time decides, not the presence: the server's own expiry may lag.
local lives = head and age < head.retention
local there = lives and head.stamp or ''

if stamp ~= '' and there == stamp then
  -- Written again as it is: who asks for copies waits for those of this write, and may have reconnected since the first.
  redis.call('SETRANGE', key, 0, 's1')
  return 'done'
end
if there ~= expect then
  if not lives then
    return 'absent'
  end
  if age < head.trims then
    return { age, there, redis.call('GETRANGE', key, HEAD, HEAD + head.whole - 1) }
  end
  return { age, there, redis.call('GETRANGE', key, HEAD + head.whole, -1) }
end
if stamp == '' then
  if lives then
    redis.call('DEL', key)
  end
  return 'done'
end
if ARGV[3] == 'none' and not lives then
  return 'full'
end
local retention = tonumber(ARGV[5])
local value = head_of(stamp, now, retention, tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])) .. ARGV[9]
if ARGV[1] == '' then
  redis.call('SET', key, value, 'PXAT', now + retention)
else
  redis.call('SET', key, value)
end
return 'done'
