'use strict'
const PERIOD = 40 // milliseconds between two words of where we are
const ARROW = '<svg viewBox="0 0 20 20" aria-hidden="true"><path d="M2 1l15 7-6.5 2.2L8 17z" fill="currentColor" stroke="#fff" stroke-width="1.2"/></svg>'
const field = document.getElementById('field')
const badge = document.querySelector('.badge')
const others = new Map()
let socket; let me = null; let at = null; let said = null

function count () {
  document.getElementById('count').textContent = others.size ? `${others.size} cursor${others.size > 1 ? 's' : ''}` : ''
}

function draw (cursor) {
  let mark = others.get(cursor.id)
  if (!mark) {
    mark = document.createElement('div')
    mark.className = 'cursor'
    mark.innerHTML = `${ARROW}<span></span>`
    mark.style.color = mark.lastChild.style.background = cursor.colour
    mark.lastChild.textContent = cursor.id === me.id ? `${cursor.name} (you)` : `${cursor.name} · worker ${cursor.worker}`
    field.append(mark)
    others.set(cursor.id, mark)
    count()
  }
  mark.at = cursor
  mark.classList.toggle('left', cursor.x > 0.65) // its name stays inside
  mark.style.transform = `translate(${cursor.x * field.clientWidth}px, ${cursor.y * field.clientHeight}px)`
}

function connect () {
  socket = new WebSocket(location.origin.replace('http', 'ws') + '/socket')
  socket.onmessage = ({ data }) => {
    const word = JSON.parse(data)
    if (word.you) {
      me = word.you
      badge.dataset.state = 'open'
      badge.textContent = `worker ${me.worker}`
    } else if (word.gone) {
      others.get(word.gone)?.remove()
      others.delete(word.gone)
      count()
    } else if (word.hello) said = null
    else if (word.id && me) draw(word)
  }
  socket.onclose = () => {
    me = null
    for (const mark of others.values()) mark.remove()
    others.clear()
    badge.dataset.state = 'closed'
    badge.textContent = 'connecting'
    setTimeout(connect, 500 + Math.random() * 1000)
  }
}

new ResizeObserver(() => { for (const mark of others.values()) draw(mark.at) }).observe(field)
field.onpointermove = event => {
  const box = field.getBoundingClientRect()
  at = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]
}
setInterval(() => {
  if (at && at !== said && me && socket.readyState === WebSocket.OPEN) { socket.send(JSON.stringify(at)); said = at }
}, PERIOD)
connect()
