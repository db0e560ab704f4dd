'use strict'
const KEPT = 60 // reports: half a minute
const series = {}
const badge = document.querySelector('.badge')
const show = number => Math.round(number).toLocaleString('en')
let before = null

function tile (id, value) {
  const kept = series[id] = [...(series[id] || []), value].slice(-KEPT)
  const root = document.getElementById(id)
  const top = Math.max(...kept, 1)
  root.querySelector('strong').textContent = show(value)
  const left = (100 * (KEPT - kept.length)) / (KEPT - 1)
  const line = kept.map((each, at) => `${left + (100 * at) / (KEPT - 1)},${29 - (25 * each) / top}`).join(' ')
  root.querySelector('polyline').setAttribute('points', line)
  root.querySelector('polygon').setAttribute('points', `${left},30 ${line} 100,30`)
}

function report (now) {
  const last = before || now
  const seconds = Math.max(now.time - last.time, 0.001)
  const old = Object.fromEntries(last.workers.map(worker => [worker.pid, worker]))
  const rate = (worker, name) => old[worker.pid] ? Math.max(worker[name] - old[worker.pid][name], 0) / seconds : 0
  const sum = value => now.workers.reduce((total, worker) => total + value(worker), 0)
  tile('in', Math.max(now.router.records - last.router.records, 0) / seconds)
  tile('out', Math.max(now.router.deliveries - last.router.deliveries, 0) / seconds)
  tile('requests', sum(worker => rate(worker, 'requests_total')))
  tile('streams', sum(worker => worker.streams))
  tile('rows', now.router.rows_used)
  document.getElementById('segment').textContent = `${now.megabytes} MiB are shared.`
  document.getElementById('workers').replaceChildren(...now.workers.map(worker => {
    const row = document.createElement('tr')
    row.className = worker.state
    const beat = worker.beat === null ? '–' : `${worker.beat.toFixed(1)} s`
    const cells = [worker.id, worker.pid, worker.state, worker.connections, worker.streams,
      show(rate(worker, 'requests_total')), show(rate(worker, 'sent')), show(rate(worker, 'received')), worker.missed, beat]
    row.append(...cells.map(text => Object.assign(document.createElement('td'), { textContent: text })))
    return row
  }))
  before = now
}

const source = new EventSource('/events')
source.onopen = () => { badge.dataset.state = 'open'; badge.textContent = 'live' }
source.onerror = () => { badge.dataset.state = 'closed'; badge.textContent = 'connecting' }
source.onmessage = event => report(JSON.parse(event.data))
document.getElementById('load').onclick = () => fetch('/load', { method: 'POST' })
