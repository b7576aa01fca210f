-- Takes away what is past its time. KEYS: the records. ARGV, for each: now ('' asks the server), and until when this may run,
-- which matters to nobody. Answers how many records went: 0 or 1.

return each(function(key, at)
  local now = ARGV[at] == '' and server_ms or tonumber(ARGV[at])
  local stamp, written, retention, trims, phase, whole = head_at(key)
  if stamp == false then
    return written
  end
  if not stamp then
    return 0
  end
  local age = math.max(0, now - written)
  if age >= retention then
    redis.call('DEL', key)
    return 1
  end
  if age >= trims then
    local left = redis.call('GETRANGE', key, HEAD + whole, -1)
    -- Never again: what is left is whole now.
    redis.call('SET', key, head_of(stamp, written, retention, 2 ^ 53, phase, #left) .. left, 'KEEPTTL')
  end
  return 0
end)
