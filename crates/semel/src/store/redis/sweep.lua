-- Takes away what is past its time at one key. KEYS: the record. ARGV: now ('' asks the server). Answers how many records
-- went: 0 or 1.

local key = KEYS[1]
local now = ARGV[1] == '' and server_now() or tonumber(ARGV[1])
local head = head_at(key)
if head == false then
  return damaged()
end
if not head then
  return 0
end
local age = math.max(0, now - head.written)
if age >= head.retention then
  redis.call('DEL', key)
  return 1
end
if age >= head.trims then
  local left = redis.call('GETRANGE', key, HEAD + head.whole, -1)
  -- Never again: what is left is whole now.
  local bytes = head_of(head.stamp, head.written, head.retention, 2 ^ 53, head.phase, #left) .. left
  redis.call('SET', key, bytes, 'KEEPTTL')
end
return 0
