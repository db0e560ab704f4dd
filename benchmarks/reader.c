/* Very many clients of event streams in one process: counts, checks and times what comes, and nothing more.

       reader HOST PORT PATH CLIENTS

   Every event's data begins with the time of its publishing, nanoseconds of CLOCK_MONOTONIC; those times must grow from
   event to event of each client, and each client must get as many as it is told to expect.  Reads commands, a line
   each, and answers with a line each:

       any SECONDS          until every client has had an event          -> clients that had none
       calm SECONDS         until nothing came for so long               -> events that came meanwhile
       round COUNT SECONDS  until every client has had COUNT more events -> events, wrong ones, first time of publishing,
                            time of the last arrival, least, p50, p99 and most of the latencies (all in nanoseconds)
*/

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, BUFFER = 1 << 18 };

static const char KEY[] = "\ndata:"; /* what stands before the time */

struct client {
    int fd;
    int matched;     /* bytes of KEY */
    int in_number;   /* 1: blanks and digits follow */
    uint64_t number; /* so far */
    uint64_t last;   /* time of the last event */
    uint64_t count;
};

static struct client *clients;
static int clients_count, epoll;
static uint64_t events, wrong, first, arrival;
static uint32_t *latencies; /* microseconds / 10 */
static size_t latencies_count, latencies_room;
static uint64_t wanted; /* of each client */
static int satisfied;   /* clients that have them */

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void event(struct client *client)
{
    events++;
    if (client->number <= client->last || client->number > arrival)
        wrong++;
    client->last = client->number;
    if (++client->count == wanted)
        satisfied++;
    if (client->count > wanted && wanted)
        wrong++;
    if (!first || client->number < first)
        first = client->number;
    if (latencies_count < latencies_room)
        latencies[latencies_count++] = (uint32_t)((arrival - client->number) / 10);
}

static void parse(struct client *client, const char *data, ssize_t size)
{
    for (const char *end = data + size; data < end; data++) {
        if (client->in_number) {
            if (*data >= '0' && *data <= '9') {
                client->number = client->number * 10 + (uint64_t)(*data - '0');
                continue;
            }
            if (*data == ' ' && !client->number)
                continue;
            client->in_number = 0;
            event(client);
        }
        if (client->matched == 0) { /* most of what comes */
            const char *line = memchr(data, '\n', (size_t)(end - data));
            if (!line)
                return;
            data = line;
            client->matched = 1;
        } else if (*data == KEY[client->matched]) {
            if (!KEY[++client->matched]) {
                client->matched = 0;
                client->in_number = 1;
                client->number = 0;
            }
        } else {
            client->matched = *data == '\n';
        }
    }
}

/* Whatever has come, or comes within so many milliseconds. */
static int turn(int wait_ms)
{
    static char buffer[BUFFER];
    struct epoll_event ready[EVENTS];
    int count = epoll_wait(epoll, ready, EVENTS, wait_ms);
    for (int i = 0; i < count; i++) {
        struct client *client = &clients[ready[i].data.u32];
        ssize_t size = recv(client->fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (size == 0 || (size < 0 && errno != EAGAIN)) {
            fprintf(stderr, "a stream has ended\n");
            exit(1);
        }
        arrival = now();
        if (size > 0)
            parse(client, buffer, size);
    }
    return count;
}

static int compare(const void *one, const void *two)
{
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)two;
    return (a > b) - (a < b);
}

static unsigned long long latency(double part)
{
    if (!latencies_count)
        return 0;
    return latencies[(size_t)(part * (double)(latencies_count - 1))] * 10ull;
}

static void reset(uint64_t count)
{
    wanted = count;
    satisfied = 0;
    events = wrong = first = 0;
    latencies_count = 0;
    for (int i = 0; i < clients_count; i++)
        clients[i].count = 0;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &address.sin_addr);
    clients_count = atoi(argv[4]);
    clients = calloc((size_t)clients_count, sizeof *clients);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    char request[512];
    int length = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", argv[3]);
    for (int i = 0; i < clients_count; i++) {
        int fd = clients[i].fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
            die("connect");
        if (send(fd, request, (size_t)length, MSG_NOSIGNAL) != length)
            die("send");
        struct epoll_event entry = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &entry);
        if (i % 50 == 49)
            usleep(50000); /* nobody's backlog is measured here */
    }
    printf("open\n");
    fflush(stdout);
    char line[128];
    double seconds;
    unsigned long long count;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "any %lf", &seconds) == 1) {
            reset(1);
            uint64_t end = now() + (uint64_t)(seconds * 1e9);
            while (satisfied < clients_count && now() < end)
                turn(100);
            printf("%d\n", clients_count - satisfied);
        } else if (sscanf(line, "calm %lf", &seconds) == 1) {
            reset(0);
            while (turn((int)(seconds * 1000)) > 0)
                ;
            printf("%llu\n", (unsigned long long)events);
        } else if (sscanf(line, "round %llu %lf", &count, &seconds) == 2) {
            size_t room = (size_t)count * (size_t)clients_count;
            if (room > latencies_room)
                latencies = realloc(latencies, (latencies_room = room) * sizeof *latencies);
            reset(count);
            memset(latencies, 1, room * sizeof *latencies); /* so that no page is missing later */
            printf("ready\n");
            fflush(stdout);
            uint64_t end = now() + (uint64_t)(seconds * 1e9);
            while (satisfied < clients_count && now() < end)
                turn(100);
            qsort(latencies, latencies_count, sizeof *latencies, compare);
            printf("%llu %llu %llu %llu %llu %llu %llu %llu\n", (unsigned long long)events, (unsigned long long)wrong,
                   (unsigned long long)first, (unsigned long long)arrival, latency(0), latency(0.5), latency(0.99),
                   latency(1));
        } else {
            return 2;
        }
        fflush(stdout);
    }
    return 0;
}
