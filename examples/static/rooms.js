'use strict'
const base = document.body.dataset.base

function door (id, send) {
  const root = document.getElementById(id)
  const [list, form, badge] = ['ol', 'form', '.badge'].map(what => root.querySelector(what))
  form.onsubmit = event => {
    event.preventDefault()
    const text = form.firstElementChild.value
    form.firstElementChild.value = ''
    if (text.trim()) send(text)
  }
  const toEnd = () => { list.scrollTop = list.scrollHeight }
  new ResizeObserver(toEnd).observe(list)
  return {
    state (open) { badge.dataset.state = open ? 'open' : 'closed'; badge.textContent = open ? 'connected' : 'connecting' },
    show (data) {
      const said = JSON.parse(data)
      if (said.event === 'gap') return this.gap(said.missed)
      const item = document.createElement('li')
      item.className = said.door === id ? 'own' : ''
      item.textContent = said.text
      const note = document.createElement('small')
      note.textContent = `by ${said.door === 'socket' ? 'WebSocket' : 'POST'}, worker ${said.worker}`
      item.append(note)
      list.append(item)
      toEnd()
    },
    gap (missed) {
      const item = document.createElement('li')
      item.textContent = missed === null ? 'Something was said meanwhile.' : `${missed} missed.`
      item.className = 'gap'
      list.append(item)
      toEnd()
    }
  }
}

const left = door('events', text => fetch(`${base}/say`, { method: 'POST', body: text }))
const source = new EventSource(`${base}/events`)
source.onopen = () => left.state(true)
source.onerror = () => left.state(false)
source.onmessage = event => left.show(event.data)
source.addEventListener('gap', event => left.gap(JSON.parse(event.data).missed))

let socket
const right = door('socket', text => socket.send(text))
function connect () {
  socket = new WebSocket(location.origin.replace('http', 'ws') + `${base}/socket`)
  socket.onopen = () => right.state(true)
  socket.onmessage = event => right.show(event.data)
  socket.onclose = () => { right.state(false); setTimeout(connect, 500 + Math.random() * 1000) }
}
connect()
