<%@ page contentType="text/html;charset=UTF-8" %><!doctype html><title>Whit</title><h1>It works</h1>
<p><%= 6 * 7 %> on Java <%= System.getProperty("java.version") %></p>
