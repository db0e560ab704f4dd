'use strict'
const list = document.getElementById('jobs')
const badge = document.querySelector('.badge')

function show (state) {
  let job = document.getElementById(state.id)
  if (!job) {
    job = document.createElement('article')
    job.id = state.id
    job.className = 'card job'
    job.innerHTML = '<div class="row"><b></b><span class="grow soft step"></span><span class="number percent"></span></div><div class="bar"><i></i></div>'
    job.querySelector('b').textContent = state.id
    list.prepend(job)
  }
  if (Number(job.dataset.percent) > state.percent) return
  job.dataset.percent = state.percent
  job.classList.toggle('done', state.percent === 100)
  job.querySelector('.step').textContent = `${state.step} · worker ${state.worker}`
  job.querySelector('.percent').textContent = `${state.percent} %`
  job.querySelector('.bar i').style.width = `${state.percent}%`
}

const source = new EventSource('/events')
source.onopen = async () => {
  badge.dataset.state = 'open'
  badge.textContent = 'connected'
  for (const state of await (await fetch('/jobs')).json()) show(state) // what happened before
}
source.onerror = () => { badge.dataset.state = 'closed'; badge.textContent = 'connecting' }
source.addEventListener('progress', event => show(JSON.parse(event.data)))
document.getElementById('start').onclick = () => fetch('/jobs', { method: 'POST' })
